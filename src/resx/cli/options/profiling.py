"""How a model is profiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import choose
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.card.runtime import PrecisionHint, RuntimeName
    from resx.runtimes.profiling.measuring import ProfileOptions

_option = partial(typer.Option, rich_help_panel="Measurement")

Runtime: TypeAlias = Annotated[
    str, _option(metavar="[onnxruntime|openvino]", help="Default: the version's own; for --bf16 openvino.")
]
Bf16: TypeAlias = Annotated[bool, _option("--bf16", metavar="", help="Compute in bfloat16 (OpenVINO only).")]
Threads: TypeAlias = Annotated[int, _option(min=0, metavar="N", help="Threads; 0: all usable cores.")]
Batch: TypeAlias = Annotated[int, _option(min=1, max=4096, metavar="N", help="Batch size.")]
Runs: TypeAlias = Annotated[
    int, _option(min=1, max=10_000, metavar="N", help=("Number of runs, each with and without counters."))
]
ImageSize: TypeAlias = Annotated[
    int | None,
    _option(min=1, max=4096, metavar="N", help="Image size in pixels, for an .onnx file with a dynamic one."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profiling:
    """The runtime, and what it is given."""

    runtime: Runtime = ""
    bf16: Bf16 = False
    threads: Threads = 0
    batch: Batch = 1
    runs: Runs = 40
    image_size: ImageSize = None

    def options(self, own: RuntimeName = "onnxruntime", own_hint: PrecisionHint = "f32") -> ProfileOptions:
        """Return how a model is measured that has a runtime of its own.

        Raises:
            UsageError: there is no such runtime, or it has no bf16 on the processor.
        """
        from resx.card.runtime import RUNTIMES
        from resx.runtimes.profiling.measuring import ProfileOptions

        chosen = choose("--runtime", self.runtime or ("openvino" if self.bf16 else own), RUNTIMES)
        if self.bf16 and chosen == "onnxruntime":
            raise UsageError("--bf16: onnxruntime has no bf16 on the CPU; use --runtime openvino")
        keeps_own = not self.runtime and not self.bf16
        return ProfileOptions(
            runtime=chosen,
            precision_hint="bf16" if self.bf16 else own_hint if keeps_own else "f32",
            threads=self.threads,
            batch=self.batch,
            num_runs=self.runs,
            image_size=self.image_size,
        )
