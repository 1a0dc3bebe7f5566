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
from resx.bench.verdict import is_too_late
from resx.bench.wire import Target
from resx.errors import UsageError

CLOSENESS = 1.04
"""A search ends where the rates that held and did not are this close."""
_STEP = 1.5
"""From a rate to the next where nothing says how far to go."""
_MOST_TRIALS = 12
_LATE_TRIALS = 6
"""So many in a row in which the client did not get the processor, at three rates: the next would not either."""
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

    def __str__(self) -> str:
        """Return it as it is asked for."""
        return f"p{self.percent:g}={self.bound_ms:g}ms"

    def holds(self, measured: Measurement) -> bool:
        """Say whether a trial held it.

        Whoever falls behind has answered fewer by the window's end than fell due in it, less those that may still be
        in flight (Little's law with the bound). What fell due, and not the rate: few random arrivals stray from it.
        """
        value = getattr(measured, self.field)
        in_flight = measured.rate_per_s * self.bound_ms / 1e3
        achieved = measured.requests_per_s * measured.window_s >= 0.95 * measured.sent - in_flight
        return value is not None and value <= self.bound_ms and not (measured.failed or measured.invalid) and achieved

    def least_s(self, rate_per_s: float) -> float:
        """Return how long a trial must last so that enough requests for the percentile fall due, almost surely."""
        least = MIN_SAMPLES[self.percent]
        return (least + 4 * math.sqrt(least) + 8) / rate_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found."""

    rate_per_s: float | None
    """None: not even the lowest rate held."""
    trials: tuple[Measurement, ...]
    capacity_per_s: float
    """Of a closed loop, which the search began with; 0: it began with a rate."""


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
    target: Target, slo: Slo, plan: LoadPlan, extras: Extras, *, start_per_s: float | None = None,
    closeness: float = CLOSENESS,
    on_trial: Callable[[str], None] = lambda _text: None, on_measured: Callable[[Measurement], None] = lambda _m: None,
) -> Found:  # fmt: skip
    """Search, with trials of `plan.duration_s`, longer where a rate gives too few samples for the percentile.

    Args:
        target: is asked.
        slo: must hold.
        plan: of a trial; its rate and concurrency do not count.
        extras: as for any measurement.
        start_per_s: the first rate. None: one that a closed loop suggests.
        closeness: ratio of rates at which the search ends.
        on_trial: told of each load.
        on_measured: given each.
    """
    trials: list[Measurement] = []
    capacity, high = 0.0, math.inf
    rate = start_per_s
    if rate is None:
        on_trial(f"closed loop of {_PROBE_CONCURRENCY}, for a first idea")
        probe = measure(target, replace(plan, rate_per_s=0.0, concurrency=_PROBE_CONCURRENCY), extras)
        on_measured(probe)
        capacity = probe.requests_per_s
        if not capacity or probe.interrupted:
            return Found(rate_per_s=None, trials=(), capacity_per_s=capacity)
        rate, high = 0.8 * capacity, 1.25 * capacity

    def trial(rate: float, seed: int) -> bool:
        for again in (0, 1):
            on_trial(f"trial {len(trials) + 1}: {rate:.4g}/s")
            wanted = replace(
                plan, concurrency=0, rate_per_s=rate, duration_s=max(plan.duration_s, slo.least_s(rate)),
                seed=plan.seed + seed + 500 * again,
            )  # fmt: skip
            trials.append(measure(target, wanted, extras, repeat=len(trials) + 1))
            on_measured(trials[-1])
            if not _left_late(trials[-1]):  # else it says nothing of the server
                break
        return slo.holds(trials[-1])

    def hopeless() -> bool:
        last = trials[-_LATE_TRIALS:]
        return trials[-1].interrupted or (len(last) == _LATE_TRIALS and all(map(_left_late, last)))

    def found(rate: float | None) -> Found:
        return Found(rate_per_s=rate, trials=tuple(trials), capacity_per_s=capacity)

    high, low = min(high, MAX_RATE_PER_S), 0.0
    while len(trials) < _MOST_TRIALS:
        if trial(rate, 0):
            low = rate
        else:
            high = rate
        if hopeless():
            return found(None)
        if low and high / low <= closeness:
            break
        rate = min(math.sqrt(low * high), _STEP * low) if low else high / (2 if start_per_s is None else _STEP)
        if slo.least_s(rate) > _LONGEST_S:
            return found(None)
    while low and not trial(low, 1000 + len(trials)):
        if hopeless() or len(trials) > _MOST_TRIALS + 4:
            return found(None)
        low /= closeness
    return found(low or None)


def _left_late(measured: Measurement) -> bool:
    return measured.late is not None and is_too_late(measured.late)
