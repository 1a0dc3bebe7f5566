"""What training noted of each finished epoch. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from resx.errors import UsageError
from resx.files.reading import MAX_RESULT_BYTES, read_text
from resx.training.config import BestBy

Metrics: TypeAlias = dict[str, Any]
"""Of one epoch."""
METRICS = "metrics.jsonl"
HELD_OUT_NAMES: dict[BestBy, str] = {
    "accuracy": "accuracy",
    "loss": "held_out_loss",
    "balanced-accuracy": "balanced_accuracy",
}
"""The metrics of the held-out images, by what the best epoch is chosen by."""
VALIDATION_NAMES: dict[BestBy, str] = {
    "accuracy": "validation_accuracy",
    "loss": "validation_loss",
    "balanced-accuracy": "validation_balanced_accuracy",
}
"""Of the validation images, where there are any."""
VALIDATION_ACCURACY = VALIDATION_NAMES["accuracy"]


def read_metrics(folder: Path) -> list[Metrics]:
    """Return the metrics of a run's finished epochs; none where it has finished none.

    Raises:
        UsageError: the file has a line that training did not write.
    """
    path = folder / METRICS
    try:
        lines = read_text(path, MAX_RESULT_BYTES).splitlines() if path.is_file() else []
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: has a line that resx did not write; copy the run again") from error


def best_of(metrics: Sequence[Metrics], best_by: BestBy = "accuracy") -> int:
    """Return which epoch, from 0, is the first of the best, on validation images where there are any."""
    values = [value_to_choose_by(entry, best_by) for entry in metrics]
    return values.index(max(values))


def value_to_choose_by(entry: Metrics, best_by: BestBy = "accuracy") -> float:
    """Return what an epoch is chosen by, more being better: of validation images, or of the held-out ones."""
    names = VALIDATION_NAMES if VALIDATION_NAMES[best_by] in entry else HELD_OUT_NAMES
    value = float(entry[names[best_by]])
    return -value if best_by == "loss" else value
