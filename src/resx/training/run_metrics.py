"""What training noted of each finished epoch. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from resx.errors import UsageError
from resx.files.reading import MAX_RESULT_BYTES, read_text

Metrics: TypeAlias = dict[str, Any]
"""Of one epoch."""
METRICS = "metrics.jsonl"
VALIDATION_ACCURACY = "validation_accuracy"


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
        raise UsageError(f"{path}: contains a line that training did not write; copy the run again") from error


def best_of(metrics: Sequence[Metrics]) -> int:
    """Return which epoch, from 0, is the first of the most accurate, on validation images where there are any."""
    accuracies = [accuracy_to_choose_by(entry) for entry in metrics]
    return accuracies.index(max(accuracies))


def accuracy_to_choose_by(entry: Metrics) -> float:
    """Return an epoch's accuracy on the validation images, or on the held-out images where there are none."""
    return float(entry[VALIDATION_ACCURACY if VALIDATION_ACCURACY in entry else "accuracy"])
