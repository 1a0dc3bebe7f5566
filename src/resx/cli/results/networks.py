"""What `models`, `info`, `train`, `runs`, `paths` and `shrink` print."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from resx.analysis.paths.study import PathGradients, PathLengths
from resx.analysis.shrink.search import ShrunkenNetwork
from resx.analysis.shrink.shrunken_run import ShrinkRecord
from resx.cli.results.described import described
from resx.training.runs.run_listing import BrokenRun, ListedRun
from resx.zoo.spec import ModelSpec


@described
class Variant(TypedDict):
    """A network by name, with its published figures."""

    name: str
    family: str
    parameters: int
    gmacs: float
    """Multiply-adds of convolutions and linear layers for one image, in 10^9."""
    image_size: int
    """Pixels of a side."""
    classes: int
    top1_percent: float | None
    """ImageNet accuracy of the published weights."""
    error_percent: float | None
    """The paper's own figure."""
    paper: str


@described
class Variants(TypedDict):
    """`resx models --json`."""

    models: list[Variant]


@described
class VariantInfo(TypedDict):
    """`resx info VARIANT --json`."""

    kind: Literal["variant"]
    family: str
    parameters: int
    gmacs: float
    published: str
    """Published result in words; empty if there is none."""
    paper: str
    spec: ModelSpec


@described
class RunInfo(TypedDict):
    """`resx info RUN --json`."""

    kind: Literal["run"]
    epochs: int
    last: dict[str, Any]
    """The last epoch's metrics; empty before the first."""
    spec: ModelSpec


@described
class PublishedInfo(TypedDict):
    """`resx info NAME --json`, of a model in the repository."""

    kind: Literal["published model"]
    versions: list[int]
    newest: int
    card: dict[str, Any]
    """card.json without the canary's answer; card.schema.json describes it."""


@described
class FileInfo(TypedDict):
    """`resx info FILE.onnx --json`."""

    kind: Literal["onnx file"]
    inputs: list[str]
    outputs: list[str]
    opset: dict[str, int]
    """Operator set version of each domain."""
    operators: dict[str, int]
    """Number of nodes of each operator."""
    weights: int
    fp16_share: float
    """Share of the weights that are stored in 16 bits."""
    quantized: str | None
    metadata: dict[str, str]


@described
class Trained(TypedDict):
    """`resx train --json`: the run, and the last epoch's metrics."""

    run: str
    """The run's folder."""
    model: str
    recipe: str
    num_held_out: int
    num_skipped: int
    """Images that could not be read."""
    num_hidden: int
    num_copies: int
    num_conflicting: int
    num_in_both: int
    skipped_files: dict[str, int]
    classes_not_held_out: list[str]
    checksum: str | None
    """Whether the data are the published files."""
    remarks: list[str]
    best_epoch: int
    best_accuracy: float
    best_chosen_on: Literal["validation", "held-out"]
    epoch: int
    step: int
    loss: float
    accuracy: float
    """Accuracy on the held-out images."""
    held_out_loss: float
    """Cross-entropy, the mean over the held-out images."""
    balanced_accuracy: float
    """The mean of the classes' accuracies."""
    validation_accuracy: NotRequired[float]
    validation_loss: NotRequired[float]
    validation_balanced_accuracy: NotRequired[float]
    images_per_s: float
    device: str
    precision: str
    num_processes: int


@described
class Runs(TypedDict):
    """`resx runs --json`."""

    folder: str
    runs: list[ListedRun]
    """In the order of --sort."""
    broken: list[BrokenRun]
    best: str | None
    """The folder of the most accurate run, of equals the newest; null where none has finished an epoch."""


@described
class ShareBetween(TypedDict):
    """The share of the paths whose length is within bounds."""

    low: int
    high: int
    share: float


@described
class Paths(TypedDict):
    """`resx paths --json`."""

    model: str
    seed: int
    lengths: PathLengths
    gradients: PathGradients | None
    """Gradients of a run; None for a variant."""
    between: NotRequired[ShareBetween]


class ShrunkenRun(ShrinkRecord):
    """A run that was written."""

    folder: str


@described
class Shrunken(TypedDict):
    """`resx shrink --json`."""

    whole: ShrunkenNetwork
    runs: list[ShrunkenRun]
    sizes: list[ShrunkenNetwork]
    """Every size that was measured, with --pareto."""
