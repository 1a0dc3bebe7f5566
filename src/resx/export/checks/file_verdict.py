"""Whether one file may stand for another: by what they compute, and by their accuracy."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from resx.errors import ParityError
from resx.export.checks.accuracy import Accuracies, load_labelled
from resx.export.checks.file_comparison import Comparison, right_by_files


def difference_of(
    found: Comparison, accuracies: Accuracies | None, files: tuple[Path, Path], rtol: float
) -> ParityError | None:
    """Return the error that a comparison ends with; None where the second file may stand for the first."""
    if not found.passed:
        worst = max(found.outputs, key=lambda one: one.smallest_rtol)
        return ParityError(
            f"{files[1]}: {worst.output} differs from {files[0]}'s by {worst.smallest_rtol:.3g} of its scale, allowed "
            f"{rtol:g}; {_remedy(worst.smallest_rtol)}; --bisect names the first tensor that differs"
        )
    if accuracies is not None and not accuracies.passed:
        return ParityError(
            f"{files[1]}: accuracy falls by {accuracies.drop:.1%}: {accuracies.text}; one point is allowed"
        )
    return None


def accuracies_of(files: tuple[Path, Path], data: str, *, num_images: int, max_batch: int) -> Accuracies:
    """Measure both files on the held-out images of a data set.

    Raises:
        UsageError: there is no such data set, or it does not fit the files.
    """
    load = functools.cache(
        lambda image_size, num_classes: load_labelled(
            data, image_size=image_size, num_classes=num_classes, num_images=num_images
        )
    )
    used = []

    def labelled(image_size: int, num_classes: int) -> Any:
        used.append(load(image_size, num_classes))
        return used[-1]

    first, second = right_by_files(files, labelled, max_batch_size=max_batch)
    return Accuracies(images=used[0].origin, right={"first": first, "second": second})


def _remedy(smallest: float) -> str:
    return f"it would pass with --rtol {smallest:g}" if math.isfinite(smallest) else "no tolerance accepts NaN"
