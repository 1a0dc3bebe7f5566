"""Samples of a load, and percentiles that say when they cannot be known.

Percentiles are an HDR histogram's (hdrhistogram.org) of 3 significant digits. The least number of samples for a
percentile to mean anything is MLPerf LoadGen's rule for early stopping: enough that, at 99 % confidence, a run with
that many samples could have shown a violation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.bench.load.request_times import Records
from resx.values import FrozenModel

MIN_SAMPLES: dict[float, int] = {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}
HIGHEST_US, DIGITS = 3_600_000_000, 3
"""An hour."""


class Percentiles(FrozenModel):
    """Milliseconds; None where the samples do not suffice."""

    mean_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p99_9_ms: float | None = None
    max_ms: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Requests, in the order of no clock in particular; times in ns of CLOCK_MONOTONIC."""

    due_ns: npt.NDArray[np.int64]
    sent_ns: npt.NDArray[np.int64]
    done_ns: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    """0: answered; otherwise 1 + the error's place in `errors`."""
    errors: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.due_ns)

    @property
    def answered(self) -> Samples:
        """Those that were answered."""
        return self.where(self.kind == 0)

    @property
    def latencies_ms(self) -> npt.NDArray[np.float64]:
        """From when each was due to its answer."""
        return (self.done_ns - self.due_ns) / 1e6

    @property
    def service_ms(self) -> npt.NDArray[np.float64]:
        """From when each was sent to its answer."""
        return (self.done_ns - self.sent_ns) / 1e6

    @property
    def error_counts(self) -> dict[str, int]:
        """How many ended with each error, most first."""
        counts = Counter(self.errors[kind - 1] for kind in self.kind[self.kind > 0].tolist())
        return dict(counts.most_common())

    def where(self, mask: npt.NDArray[np.bool_]) -> Samples:
        """Return those that the mask picks."""
        return Samples(
            due_ns=self.due_ns[mask],
            sent_ns=self.sent_ns[mask],
            done_ns=self.done_ns[mask],
            kind=self.kind[mask],
            errors=self.errors,
        )


def merge(records: Sequence[Records]) -> Samples:
    """Return what all generators saw."""
    errors = list(dict.fromkeys(error for record in records for error in record.errors))
    kinds = []
    for record in records:
        places = np.array([0, *(1 + errors.index(error) for error in record.errors)], np.int64)
        kinds.append(places[np.frombuffer(record.outcome, np.int16)])

    def joined(field: str) -> npt.NDArray[np.int64]:
        return np.concatenate([np.frombuffer(getattr(record, field), np.int64) for record in records])

    return Samples(
        due_ns=joined("due_ns"),
        sent_ns=joined("sent_ns"),
        done_ns=joined("done_ns"),
        kind=np.concatenate(kinds),
        errors=tuple(errors),
    )


def histogram(latencies_ms: npt.NDArray[np.float64]) -> Any:
    """Return an HdrHistogram of the latencies in us."""
    from hdrh.histogram import HdrHistogram

    made = HdrHistogram(1, HIGHEST_US, DIGITS)
    values, counts = np.unique(np.clip(np.rint(latencies_ms * 1e3), 1, HIGHEST_US).astype(np.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        made.record_value(value, count)
    return made


def percentiles(latencies_ms: npt.NDArray[np.float64]) -> Percentiles:
    """Return what the samples suffice for; the largest one is always known."""
    if not len(latencies_ms):
        return Percentiles()
    made = histogram(latencies_ms)

    def at(percent: float) -> float | None:
        enough = len(latencies_ms) >= MIN_SAMPLES[percent]
        return float(made.get_value_at_percentile(percent)) / 1e3 if enough else None

    return Percentiles(
        mean_ms=float(latencies_ms.mean()) if len(latencies_ms) >= MIN_SAMPLES[50] else None,
        p50_ms=at(50),
        p90_ms=at(90),
        p95_ms=at(95),
        p99_ms=at(99),
        p99_9_ms=at(99.9),
        max_ms=float(latencies_ms.max()),
    )
