"""What `predict`, `evaluate` and `tune` print; `bench`, `plan` and `profile` print values of their own rooms."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from resx.analysis.classification.evaluation import Evaluation
from resx.analysis.classification.paired_comparison import PairedComparison
from resx.card.tuning import Tuning
from resx.cli.results.described import described


@described
class Predicted(TypedDict):
    """`resx predict --json`."""

    rows: int
    errors: int
    """Number of rows with an error."""
    first_error: str
    scored_rows: int
    """Rows scored by this command; the others were scored before."""
    resumed_parts: int
    seconds: float
    images_per_s: float
    skipped: int
    skipped_files: dict[str, int]
    hidden: int
    out: str
    finished_already: Literal[False]
    model: str
    version: int
    random_weights: bool


class Evaluated(Evaluation):
    """`resx evaluate --json`."""

    against: Evaluation | None = None
    """Results of the other model (--against)."""
    comparison: PairedComparison | None = None
    """Paired comparison of both models (--against)."""


@described
class PredictedBefore(TypedDict):
    """`resx predict --json`, where an earlier call had finished."""

    out: str
    finished_already: Literal[True]


class Tuned(Tuning):
    """`resx tune --json`."""

    name: str
    better: bool
    """Whether a setting is significantly better than the current one."""
    version: int | None
    """Version of the deployed setting."""


@described
class TuningUndone(TypedDict):
    """`resx tune --undo --json`."""

    name: str
    removed: int
    version: int
    deployed: bool
