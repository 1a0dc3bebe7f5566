"""Percentiles that say when they cannot be known.

The least number of samples for a percentile to mean anything is MLPerf LoadGen's rule for early stopping:
enough that, at 99 % confidence, a run with that many samples could have shown a violation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MIN_SAMPLES: dict[float, int] = {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}


def percentile(sorted_samples: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile of samples in ascending order; None where there are too few.

    `percent` is one of MIN_SAMPLES.
    """
    if len(sorted_samples) < MIN_SAMPLES[percent]:
        return None
    return sorted_samples[math.ceil(percent / 100 * len(sorted_samples)) - 1]
