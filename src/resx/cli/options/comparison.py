"""Which forms `resx compare` makes, how they are measured, and which one is published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.evaluation import ByPosition, ImagesWanted, PartName, SkipBad
from resx.cli.options.grouping import output_option
from resx.cli.options.precision import Calibrate
from resx.cli.options.validation import finite
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.bench.exports.measurement import MeasuringPlan

_measuring_option = partial(typer.Option, rich_help_panel="Measuring")

Data: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="Labeled images for the accuracy: digits, mnist5k, cifar10:DIR, cifar100:DIR, folder:DIR, or none. "
        "Default: the data that the run was trained on.",
        rich_help_panel="Images",
    ),
]
Precisions: TypeAlias = Annotated[
    str, typer.Option(metavar="[fp32|bf16|fp16|int8],...", help="Precisions of the forms.")
]
Runtimes: TypeAlias = Annotated[str, typer.Option(metavar="[onnxruntime|openvino],...", help="Runtimes of the forms.")]
Pick: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="'FIGURE<BOUND'",
        help="Publish the most accurate form that meets this (of several the fastest): latency<5ms, size<2MB, "
        "accuracy>97%, throughput>1000; separate conditions with commas.",
    ),
]
Name: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="For --pick: name in the repository. Default: the variant's or the run's.")
]
MaxBatch: TypeAlias = Annotated[
    int, _measuring_option("--max-batch", min=1, metavar="N", help="Largest batch; throughput is measured at it.")
]
Rounds: TypeAlias = Annotated[
    int, _measuring_option(min=1, max=100, metavar="N", help="Measurements of each form, in turns with the others.")
]
Duration: TypeAlias = Annotated[
    float, _measuring_option(callback=finite, metavar="SECONDS", help="Seconds of each measurement.")
]
Folder: TypeAlias = Annotated[
    Path | None,
    output_option("-o", "--output", metavar="DIR", help="Write compare.json and compare.html there."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedImages:
    """Which images accuracy is measured on."""

    data: Data = ""
    part: PartName = "held-out"
    skip_bad: SkipBad = False
    classes_by_position: ByPosition = False

    def wanted(self) -> ImagesWanted:
        """Return what `resx evaluate` would be given.

        Raises:
            UsageError: there is no such part.
        """
        found = ImagesWanted(
            data=self.data, part=self.part, skip_bad=self.skip_bad, classes_by_position=self.classes_by_position
        )
        found.asked()
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class FormOptions:
    """Which forms there are, and how they are measured."""

    precisions: Precisions = "fp32,bf16,fp16,int8"
    runtimes: Runtimes = "onnxruntime,openvino"
    calibrate: Calibrate = ""
    max_batch: MaxBatch = 8
    rounds: Rounds = 3
    duration: Duration = 0.5

    def plan(self) -> MeasuringPlan:
        """Return how they are measured.

        Raises:
            UsageError: the duration is no time.
        """
        from resx.bench.exports.measurement import MeasuringPlan

        if self.duration <= 0:
            raise UsageError(f"--duration {self.duration:g}: give a time above 0 s")
        return MeasuringPlan(rounds=self.rounds, duration_s=self.duration, batch_size=self.max_batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonFiles:
    """What is written."""

    output: Folder = None

    def require_writable(self) -> None:
        """Check that the files can be written, before anything takes long.

        Raises:
            UsageError: they cannot.
        """
        from resx.bench.result_files import ResultFiles

        if self.output is None:
            return
        if not self.output.exists():
            ResultFiles(html=self.output).require_writable()  # its parent
            return
        if not self.output.is_dir():
            raise UsageError(f"-o {self.output}: is a file; give a folder")
        ResultFiles(json=self.output / "compare.json", html=self.output / "compare.html").require_writable()
