"""What the samples of a window show beside percentiles: how late they left, how steady they came, second by second.

Times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from resx.bench.results.result import Late, Second, Stability
from resx.bench.results.samples import MIN_SAMPLES, Samples
from resx.bench.results.verdict import LATE_LEAST_MS, LATE_OF_MEDIAN, STABLE_SPREAD

_SLICES = 60


class Window(NamedTuple):
    """When a measurement began and ended."""

    opened_ns: int
    closed_ns: int


def late_in(window: Samples, p50_ms: float | None) -> Late:
    """Return how many requests of an open loop left late; some are where the processor is shared."""
    threshold = max(LATE_LEAST_MS, LATE_OF_MEDIAN * (p50_ms or 0.0))
    lateness = (window.sent_ns - window.due_ns) / 1e6
    num_late = int((lateness > threshold).sum())
    return Late(
        threshold_ms=threshold,
        num_late=num_late,
        share=num_late / max(1, len(window)),
        max_ms=float(lateness.max()) if len(lateness) else 0.0,
    )


def stability_of(answered: Samples, window: Window) -> Stability:
    """Compare the thirds; a difference that counting alone explains (three standard deviations) is none."""
    edges = np.linspace(window.opened_ns, window.closed_ns, 4)
    third_s = (edges[1] - edges[0]) / 1e9
    counts, _ = np.histogram(answered.done_ns, edges)
    rates = counts / third_s if third_s else counts * 0.0
    mean = float(rates.mean())
    spread = float(np.abs(rates - mean).max() / mean) if mean else 0.0
    return Stability(
        rates_per_s=(float(rates[0]), float(rates[1]), float(rates[2])),
        spread=spread,
        stable=bool(mean) and spread <= max(STABLE_SPREAD, 3 / float(counts.mean()) ** 0.5),
    )


def seconds_of(samples: Samples, window: Window, *, is_open: bool) -> tuple[Second, ...]:
    """Return the window in at most 60 slices, of a second where that suffices.

    A sample of an open loop belongs to the slice in which it was due, one of a closed loop to that of its answer.
    """
    length_s = (window.closed_ns - window.opened_ns) / 1e9
    step_s = max(1.0, length_s / _SLICES) if length_s >= 5 else max(length_s / 5, 1e-3)
    moment = (samples.due_ns if is_open else samples.done_ns) - window.opened_ns
    slices = np.minimum((moment / 1e9 / step_s).astype(np.int64), max(0, int(np.ceil(length_s / step_s)) - 1))
    found = []
    for number in range(int(np.ceil(length_s / step_s))):
        part = samples.where(slices == number)
        ok = part.answered.latencies_ms
        width = min(step_s, length_s - number * step_s)
        enough = len(ok) >= MIN_SAMPLES[99]
        found.append(
            Second(
                at_s=min(length_s, (number + 1) * step_s),
                answers_per_s=len(ok) / width if width > 0 else 0.0,
                failed=len(part) - len(ok),
                p50_ms=float(np.median(ok)) if len(ok) else None,
                p99_ms=float(np.percentile(ok, 99) if enough else ok.max()) if len(ok) else None,
            )
        )
    return tuple(found)
