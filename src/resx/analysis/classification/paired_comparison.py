"""Two models that answered the same images: what one gets right and the other does not.

Images that both get right, or both wrong, say nothing of a difference. Of the others McNemar's exact test asks whether
they could be as one-sided by chance: each falls to either model with probability 1/2. The difference in accuracy has
Clopper and Pearson's exact 95 % interval of the same split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from resx.analysis.classification.evaluation import CONFIDENCE
from resx.values import FrozenModel


class Flip(FrozenModel):
    """An image that the two answer differently."""

    image: str
    label: str
    first: str
    """The first model's answer."""
    second: str


class PairedComparison(FrozenModel):
    """What becomes of each image from the first model to the second."""

    first: str
    second: str
    num_images: int
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    difference: float
    """The second's accuracy less the first's."""
    low: float | None
    high: float | None
    """Upper end of the difference's 95 % interval; None if the models never differ in correctness."""
    p_value: float
    """McNemar's exact test, two-sided."""
    num_flips: int
    """Images that the two answer differently, right or wrong."""
    flips: tuple[Flip, ...]


def compare_answers(
    first: str,
    second: str,
    predicted: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    targets: npt.NDArray[np.int64],
    *,
    labels: Sequence[str],
    names: Sequence[str],
) -> PairedComparison:
    """Compare the answered classes [N] of two models with the images' own [N], image by image."""
    before, after = (answer == targets for answer in predicted)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    low, high = _interval(won, lost, len(targets))
    flipped = np.flatnonzero(predicted[0] != predicted[1]).tolist()
    return PairedComparison(
        first=first,
        second=second,
        num_images=len(targets),
        both_right=int((before & after).sum()),
        only_first_right=lost,
        only_second_right=won,
        both_wrong=int((~before & ~after).sum()),
        difference=(won - lost) / len(targets),
        low=low,
        high=high,
        p_value=float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        num_flips=len(flipped),
        flips=tuple(
            Flip(
                image=names[place],
                label=labels[targets[place]],
                first=labels[predicted[0][place]],
                second=labels[predicted[1][place]],
            )
            for place in flipped
        ),
    )


def _interval(won: int, lost: int, num_images: int) -> tuple[float, float] | tuple[None, None]:
    if not won + lost:
        return None, None
    interval = stats.binomtest(won, won + lost).proportion_ci(confidence_level=CONFIDENCE)
    low, high = ((2 * end - 1) * (won + lost) / num_images for end in interval)
    return float(low), float(high)
