"""What `export`, `verify`, `push`, `pull` and `gc` print."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from resx.analysis.shrink.search import ShrunkenNetwork
from resx.card.parity_result import GpuParity, Parity
from resx.card.precision import Engine, Quantisation
from resx.card.quantised_graph import QuantisedGraph
from resx.card.runtime import Runtime
from resx.cli.results.described import described
from resx.export.reproduction import Reproduction


@described
class Exported(TypedDict):
    """`resx export SOURCE --json`."""

    name: str
    version: int | None
    """None for an engine in a folder of its own."""
    folder: str
    precision: str
    target: str
    accelerator: str | None
    runtime: Runtime | None
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    not_fused: str
    """Why batch norms were left to the exporter; else empty."""
    quantisation: Quantisation | None
    quantised_before: QuantisedGraph | None
    weights: str
    random_weights: bool
    normalization: dict[str, Any] | None
    fp16_share: float
    size_bytes: int
    verified: bool
    steps: list[Parity]
    gpu_parity: GpuParity | None
    format: str
    file: str
    kept: bool
    """Whether an earlier, identical export was reused."""
    engine: Engine | None


@described
class FamilyMember(TypedDict):
    """One depth of a run, published as a model of its own."""

    name: str
    version: int
    folder: str
    file: str
    is_new: bool
    precision: str
    target: str
    size_bytes: int
    verified: bool
    dropped_blocks: list[int]
    whole_sha256: str
    num_blocks: int
    whole_blocks: int
    accuracy: float
    accuracy_on: str
    num_images: int
    latency_ms: float
    threads: int
    processor: str


@described
class ExportedFamily(TypedDict):
    """`resx export RUN --pareto N --json`."""

    family: str
    source: str
    whole_blocks: int
    members: list[FamilyMember]
    sizes: list[ShrunkenNetwork]


class Reproduced(Reproduction):
    """`resx export --reproduce CARD --json`."""

    identical: bool


@described
class Check(TypedDict):
    """One check of a version."""

    what: str
    passed: bool
    skipped: bool
    detail: str


@described
class MeasuredStep(TypedDict):
    """A step's differences, with the other fields of the card's steps; None for what is not finite."""

    when: str
    """export: from the card; now: measured again."""
    step: str
    num_images: int
    batch_sizes: list[int]
    scale: float | None
    max_abs: float | None
    mean_abs: float | None
    top1_agreement: float | None
    passed: bool
    smallest_rtol: float | None
    """The smallest --rtol that would pass."""


@described
class Accuracy(TypedDict):
    """Accuracy on labelled images: beside these fields the share of each form by its name."""

    num_images: int
    images: str
    """Source of the images."""
    passed: bool


@described
class Verified(TypedDict):
    """`resx verify NAME --json`."""

    name: str
    version: int
    accelerator: str | None
    passed: bool
    checks: list[Check]
    steps: list[MeasuredStep]
    accuracy: Accuracy | None


@described
class ComparedOutput(TypedDict):
    """How far one output of two files differs; None for what is not finite."""

    output: str
    num_rows: int
    scale: float | None
    max_abs: float | None
    mean_abs: float | None
    p99_abs: float | None
    cosine: float | None
    top1_agreement: float | None
    smallest_rtol: float | None
    passed: bool


@described
class FirstDivergence(TypedDict):
    """The first tensor that differs, in the order of the first file's graph."""

    tensor: str
    operator: str
    relative: float | None


@described
class Compared(TypedDict):
    """`resx verify A.onnx B.onnx --json`."""

    passed: bool
    outputs: list[ComparedOutput]
    batch_sizes: list[int]
    num_noise: int
    num_photographs: int
    accuracy: Accuracy | None
    first_divergence: NotRequired[FirstDivergence]


@described
class DeletedVersion(TypedDict):
    """A version that is deleted."""

    name: str
    version: int
    size_bytes: int


@described
class KeptVersion(TypedDict):
    """A version that would be old enough, and is in use."""

    name: str
    version: int
    reason: str


@described
class Collected(TypedDict):
    """`resx gc --json`."""

    dry_run: bool
    """Nothing was deleted."""
    deleted: list[DeletedVersion]
    kept: list[KeptVersion]
    skipped: dict[str, str]
    """Folders of the repository that are no models, with the reason."""


@described
class SharedFile(TypedDict):
    """A file that is sent."""

    name: str
    size_bytes: int
    sha256: str


@described
class Pushed(TypedDict):
    """`resx push X PLACE --json`."""

    kind: str
    """`run` or `version`."""
    name: str
    place: str
    """As it was named."""
    url: str
    """The repository's page on the Hub, or the folder."""
    sent: bool
    """False without `--yes`."""
    size_bytes: int
    files: list[SharedFile]


@described
class Pulled(TypedDict):
    """`resx pull PLACE --json`."""

    kind: str
    """`run` or `version`."""
    name: str
    version: int | None
    """None for a run."""
    folder: str
    place: str
    """As it was named."""
    files: list[str]
    """Whose hashes were checked."""
