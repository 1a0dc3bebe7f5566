"""The highest rate at which a latency percentile still holds its bound.

Offered load is what decides, so every trial is an open loop with Poisson arrivals; a trial holds the bound only if it
is valid, nothing failed and the rate was achieved. Trials halve the interval between a rate that held and one that
did not, in ratios; the rate that is told held once more, with other arrivals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from resx.bench.measuring import Extras, measure
from resx.bench.plan import MAX_RATE_PER_S, LoadPlan
from resx.bench.report import Measurement
from resx.bench.samples import MIN_SAMPLES
from resx.bench.wire import Target
from resx.errors import UsageError

CLOSENESS = 1.04
"""The search ends where the rates that held and did not are this close."""
_MOST_TRIALS = 12
_LONGEST_S = 60.0
"""A rate that needs longer for enough samples is not tried."""
_PROBE_CONCURRENCY = 8
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Slo:
    """A service level objective: a percentile of latency and its bound."""

    percent: float
    bound_ms: float

    @property
    def field(self) -> str:
        """The name of the percentile in a measurement."""
        return f"p{self.percent:g}_ms".replace(".", "_")

    def holds(self, measured: Measurement) -> bool:
        """Say whether a trial held it."""
        value = getattr(measured, self.field)
        achieved = measured.requests_per_s >= 0.95 * measured.rate_per_s
        return value is not None and value <= self.bound_ms and not (measured.failed or measured.invalid) and achieved


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found."""

    rate_per_s: float | None
    """None: not even the lowest rate held."""
    trials: tuple[Measurement, ...]
    capacity_per_s: float
    """Of a closed loop, which the search began with."""


def parse_slo(text: str) -> Slo:
    """Read `p99=15ms`.

    Raises:
        UsageError: it is not a percentile, `=` and a time.
    """
    match = re.fullmatch(r"\s*p(\d+(?:\.\d+)?)\s*=\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*", text)
    known = ", ".join(f"p{percent:g}" for percent in MIN_SAMPLES)
    if match is None or float(match[1]) not in MIN_SAMPLES or not float(match[2]) > 0:
        raise UsageError(f"--slo {text}: give a percentile ({known}) and its bound, as p99=15ms")
    return Slo(percent=float(match[1]), bound_ms=float(match[2]) * _UNITS[match[3]])


def search(
    target: Target, slo: Slo, plan: LoadPlan, extras: Extras, *,
    on_trial: Callable[[str], None] = lambda _text: None, on_measured: Callable[[Measurement], None] = lambda _m: None,
) -> Found:  # fmt: skip
    """Search, with trials of `plan.duration_s`, longer where a rate gives too few samples for the percentile."""
    on_trial(f"closed loop of {_PROBE_CONCURRENCY}, for a first idea")
    probe = measure(target, replace(plan, rate_per_s=0.0, concurrency=_PROBE_CONCURRENCY), extras)
    on_measured(probe)
    capacity = probe.requests_per_s
    trials: list[Measurement] = []

    def trial(rate: float, seed: int) -> bool:
        least_s = 1.2 * MIN_SAMPLES[slo.percent] / rate  # the arrivals are random: some more than the least
        on_trial(f"trial {len(trials) + 1}: {rate:.4g}/s")
        wanted = replace(
            plan, concurrency=0, rate_per_s=rate, duration_s=max(plan.duration_s, least_s), seed=plan.seed + seed
        )
        trials.append(measure(target, wanted, extras, repeat=len(trials) + 1))
        on_measured(trials[-1])
        return slo.holds(trials[-1])

    def found(rate: float | None) -> Found:
        return Found(rate_per_s=rate, trials=tuple(trials), capacity_per_s=capacity)

    if not capacity or probe.interrupted:
        return found(None)
    high = min(1.25 * capacity, MAX_RATE_PER_S)
    low = 0.0
    rate = 0.8 * capacity
    while len(trials) < _MOST_TRIALS:
        if trial(rate, 0):
            low = rate
        else:
            high = rate
        if trials[-1].interrupted:
            return found(None)
        if low and high / low <= CLOSENESS:
            break
        rate = math.sqrt(low * high) if low else high / 2
        if 1.2 * MIN_SAMPLES[slo.percent] / rate > _LONGEST_S:
            return found(None)
    while low and not trial(low, 1000 + len(trials)):
        if trials[-1].interrupted or len(trials) > _MOST_TRIALS + 4:
            return found(None)
        low /= CLOSENESS
    return found(low or None)
