"""Two variants compared seed by seed: the mean difference, Student's interval of it, and what it says of a claim.

A seed gives both variants the same order of images, the same augmentation and, where they have them, the same noisy
labels, so their difference varies less than either. With n seeds the interval is mean +- t s / sqrt(n), s the standard
deviation of the n differences and t the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.experiments.rows import Row
from scipy import stats

Verdict: TypeAlias = Literal["agrees", "does not", "not decided"]
Measure: TypeAlias = Callable[[Row], float | None]
CONFIDENCE = 0.95
LEAST_SEEDS = 5
"""With fewer, nothing is decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over seeds with its interval."""

    mean: float
    low: float
    high: float
    """`low` and `high` are infinite where there are fewer than two seeds."""
    num_seeds: int

    def text(self, scale: float = 1.0, unit: str = "", digits: int = 2, *, signed: bool = True) -> str:
        """Return the mean and the interval as the page prints them, times `scale`, the unit behind them."""
        if not self.num_seeds:
            return "no rows yet"
        sign = "+" if signed else ""
        mean = f"{scale * self.mean:{sign}.{digits}f}"
        if not math.isfinite(self.low):
            return f"{mean}{unit} (1 seed: no interval)"
        return f"{mean} ({scale * self.low:{sign}.{digits}f} to {scale * self.high:{sign}.{digits}f}){unit}"


def interval(numbers: Sequence[float]) -> Interval:
    """Return the mean of numbers, one per seed, with Student's interval at `CONFIDENCE`."""
    count = len(numbers)
    if count < 2:
        return Interval(mean=statistics.mean(numbers or [0.0]), low=-math.inf, high=math.inf, num_seeds=count)
    mean = statistics.mean(numbers)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(numbers) / math.sqrt(count)
    return Interval(mean=mean, low=mean - half, high=mean + half, num_seeds=count)


def paired(first: Iterable[Row], second: Iterable[Row], measure: Measure) -> Interval:
    """Return the interval of first minus second over the seeds that both have measured."""
    ones, others = _by_seed(first, measure), _by_seed(second, measure)
    return interval([ones[seed] - others[seed] for seed in sorted(ones.keys() & others.keys())])


def ratio(first: Iterable[Row], second: Iterable[Row], measure: Measure) -> Interval:
    """Return the interval of first over second over the seeds that both have measured."""
    ones, others = _by_seed(first, measure), _by_seed(second, measure)
    return interval([ones[seed] / others[seed] for seed in sorted(ones.keys() & others.keys()) if others[seed]])


def verdict(found: Interval, expected: Literal["above", "below"], bound: float = 0.0) -> Verdict:
    """Say whether an interval lies on the side of `bound` that a claim expects.

    It is not decided where the interval holds the bound, or where it is of fewer than `LEAST_SEEDS` seeds.
    """
    if found.num_seeds < LEAST_SEEDS:
        return "not decided"
    if found.low > bound:
        return "agrees" if expected == "above" else "does not"
    if found.high < bound:
        return "agrees" if expected == "below" else "does not"
    return "not decided"


def _by_seed(rows: Iterable[Row], measure: Measure) -> dict[int, float]:
    measured = ((row.seed, measure(row)) for row in rows)
    return {seed: number for seed, number in measured if number is not None}
