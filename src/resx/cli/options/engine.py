"""Which kind of file an export makes, and how TensorRT builds an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from resx.cli.options.grouping import output_option
from resx.cli.options.validation import choose
from resx.errors import UsageError
from resx.files.own_folders import make_cache_folder, require_own_cache

if TYPE_CHECKING:
    from resx.card.card import Accelerator
    from resx.export.tensorrt.builder import EngineOptions

Format: TypeAlias = Literal["onnx", "tensorrt", "tensorrt-rtx"]
FORMATS: tuple[Format, ...] = ("onnx", "tensorrt", "tensorrt-rtx")
STANDARD_LEVEL = 3
ENGINES = Path("engines")

_option = partial(typer.Option, rich_help_panel="TensorRT")
_BUILDING = ("workspace_mib", "timing_cache", "builder_level", "emit_script")
"""What a plan that is built already has no use for."""
_MEANINGLESS: Mapping[Format, tuple[str, ...]] = {
    "onnx": (
        "compute_capability", "batch_min", "batch_opt", "batch_max", "workspace_mib", "timing_cache", "tf32",
        "builder_level", "emit_script", "output", "plan", "publish",
    ),
    "tensorrt": ("compute_capability", "output", "publish"),
    "tensorrt-rtx": ("timing_cache", "emit_script", "plan"),
}  # fmt: skip

FormatName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="[onnx|tensorrt|tensorrt-rtx]",
        help="tensorrt: a plan for this machine's GPU; tensorrt-rtx: an engine, built anywhere.",
    ),
]
Target: TypeAlias = Annotated[
    str, typer.Option(metavar="[cpu|gpu]", help="Optimize the file for cpu or gpu. Default: detect.")
]
RuntimeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="[onnxruntime|openvino]",
        help="Runtime that computes the file. Default: onnxruntime; for --bf16 on the CPU openvino.",
    ),
]
AcceleratorName: TypeAlias = Annotated[
    str,
    _option(
        "--accelerator",
        metavar="[tensorrt]",
        help="For onnx: tensorrt runs the file on the GPU by TensorRT inside the server's onnxruntime.",
    ),
]
ComputeCapability: TypeAlias = Annotated[
    str,
    _option(
        metavar="X.Y,...",
        help="tensorrt-rtx: GPUs to build for, as 8.6,8.9. Default: all that an engine is portable to.",
    ),
]
BatchMin: TypeAlias = Annotated[
    int, _option(min=0, metavar="N", help="Smallest batch. Default: 1.", show_default=False)
]
BatchOpt: TypeAlias = Annotated[
    int,
    _option(min=0, metavar="N", help="Batch that kernels are chosen for. Default: the largest.", show_default=False),
]
BatchMax: TypeAlias = Annotated[
    int, _option(min=0, metavar="N", help="Largest batch. Default: --max-batch.", show_default=False)
]
WorkspaceMib: TypeAlias = Annotated[int, _option(min=0, metavar="N", help="Scratch memory in MiB; 0: no bound.")]
TimingCache: TypeAlias = Annotated[
    str,
    _option(metavar="DIR", help="tensorrt: where measurements are kept; none keeps none. Default: the cache folder."),
]
Tf32: TypeAlias = Annotated[
    bool, _option("--tf32/--no-tf32", metavar="", help="Let fp32 convolutions round their inputs.")
]
BuilderLevel: TypeAlias = Annotated[
    int, _option(min=0, max=5, metavar="N", help="0 builds fastest, 5 searches longest.")
]
EmitScript: TypeAlias = Annotated[
    Path | None,
    _option(metavar="FILE", help="tensorrt: write a script that builds the plan in NVIDIA's container, instead."),
]
ImportedPlan: TypeAlias = Annotated[
    Path | None,
    _option("--plan", metavar="FILE", help="tensorrt: verify and publish this plan, built elsewhere, instead."),
]
Publish: TypeAlias = Annotated[
    bool,
    _option(
        "--publish",
        metavar="",
        help="tensorrt-rtx: publish in the model repository, for `resx serve`, instead of a folder of its own.",
    ),
]
OutputFolder: TypeAlias = Annotated[
    Path | None,
    output_option(
        "-o",
        "--output",
        metavar="DIR",
        help="tensorrt-rtx: the engine's folder. Default: engines/NAME. For an .onnx file otherwise: as --output-name.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatOptions:
    """The kind of file and how it is built; 0, an empty text and None stand for what was left out."""

    file_format: FormatName = "onnx"
    target: Target = ""
    runtime: RuntimeOption = ""
    accelerator: AcceleratorName = ""
    compute_capability: ComputeCapability = ""
    batch_min: BatchMin = 0
    batch_opt: BatchOpt = 0
    batch_max: BatchMax = 0
    workspace_mib: WorkspaceMib = 0
    timing_cache: TimingCache = ""
    tf32: Tf32 = False
    builder_level: BuilderLevel = STANDARD_LEVEL
    emit_script: EmitScript = None
    plan: ImportedPlan = None
    publish: Publish = False
    output: OutputFolder = None

    def format(self) -> Format:
        """Return the format by its own word.

        Raises:
            UsageError: there is none of that name.
        """
        return choose("--format", self.file_format, FORMATS)

    def accelerated_by(self) -> Accelerator | None:
        """Return what computes the file inside onnxruntime; None: onnxruntime itself.

        Raises:
            UsageError: there is none of that name.
        """
        from resx.card.card import ACCELERATORS

        return choose("--accelerator", self.accelerator, ACCELERATORS) if self.accelerator else None

    def require_fitting(self, typed: Mapping[str, str]) -> None:
        """Check that each option that was typed means something for the format.

        Raises:
            UsageError: one does not, or its value is out of range.
        """
        kind, accelerator = self.format(), self.accelerated_by()
        if accelerator and kind != "onnx":
            raise UsageError(
                f"--accelerator {accelerator}: --format {kind} builds an engine already; remove one of the two"
            )
        if self.runtime and kind != "onnx":
            raise UsageError(
                f"--runtime {self.runtime}: --format {kind} builds a TensorRT engine; remove one of the two"
            )
        if accelerator and self.target == "cpu":
            raise UsageError(
                f"--accelerator {accelerator}: computes on a GPU, but --target cpu makes a file for the CPU; remove "
                "one of the two"
            )
        if given := [typed[name] for name in _MEANINGLESS[kind] if name in typed]:
            others = " or ".join(name for name in FORMATS if name not in ("onnx", kind))
            raise UsageError(f"{given[0]}: does not apply to --format {kind}; remove it, or use --format {others}")
        if self.plan is not None:
            self._require_nothing_to_build(self.plan, typed)
        if self.publish and self.output is not None:
            raise UsageError(f"--publish: writes to the repository; remove --output {self.output}")
        if (kind == "tensorrt" or self.publish) and self.batch_min > 1:
            raise UsageError(f"--batch-min {self.batch_min}: Triton sends single images too; a served plan needs 1")

    def require_gpu_target(self) -> None:
        """Refuse an engine for the CPU.

        Raises:
            UsageError: that was asked for.
        """
        if self.target == "cpu" and self.file_format != "onnx":
            raise UsageError(f"--target cpu: {self.file_format} runs on a GPU; remove the option")

    def _require_nothing_to_build(self, plan: Path, typed: Mapping[str, str]) -> None:
        if given := [typed[name] for name in _BUILDING if name in typed]:
            raise UsageError(f"{given[0]}: {plan} is built already; remove the option or --plan")
        if not plan.is_file():
            raise UsageError(f"--plan {plan}: no such file; build it with the script that --emit-script writes")

    def engine_folder(self, name: str) -> Path:
        """Return where an engine of TensorRT for RTX goes."""
        return self.output or ENGINES / name

    def largest_batch(self, max_batch: int) -> int:
        """Return the largest batch that is exported for, where `max_batch` is the largest that will be served."""
        return self.batch_max or max_batch

    def engine_options(self, max_batch: int) -> EngineOptions:
        """Return how to build.

        Raises:
            UsageError: a value is out of range.
        """
        from resx.export.tensorrt.builder import EngineOptions

        largest = self.largest_batch(max_batch)
        keeps_measurements = self.file_format == "tensorrt" and self.timing_cache != "none"
        return EngineOptions(
            batch_min=self.batch_min or 1,
            batch_opt=self.batch_opt or largest,
            batch_max=largest,
            compute_capabilities=tuple(part.strip() for part in self.compute_capability.split(",") if part.strip()),
            workspace_mib=self.workspace_mib,
            timing_cache=self._measurements() if keeps_measurements else None,
            tf32=self.tf32,
            builder_level=self.builder_level,
            plan=self.plan,
        )

    def _measurements(self) -> Path:
        """Return the folder of what earlier builds measured: the user's, or the cache's."""
        if self.timing_cache:
            return Path(self.timing_cache)
        folder = make_cache_folder("tensorrt")
        require_own_cache(folder)
        return folder
