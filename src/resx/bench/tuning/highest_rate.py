"""The highest rate at which a latency percentile still holds its bound.

Offered load is what decides, so every trial is an open loop with Poisson arrivals; a trial holds the bound only if it
is valid, nothing failed and the rate was achieved. `rate_bracket` says which rate is tried next; the rate that is told
held once more, with other arrivals. The client's limit, a rate that it sent late twice, is told from the server's.

A closed loop runs right before the search, which begins near its rate, and right after it: what the machine gives
wanders, and a share of what it gave minutes ago says little.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from resx.bench.load.load_plan import MAX_RATE_PER_S, LoadPlan
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras, measure
from resx.bench.results.response_cache import why_unusable
from resx.bench.results.result import Measurement
from resx.bench.results.samples import MIN_SAMPLES
from resx.bench.results.verdict import is_too_late
from resx.bench.tuning.rate_bracket import RateBracket, TrialVerdict
from resx.errors import UsageError

CLOSENESS = 1.04
"""A search ends where the rates that held and did not are this close."""
_MOST_CONFIRMATIONS = 5
_IDLE = 0.03
"""Below this share of the capacity requests seldom wait for each other: a median above the bound stays there."""
_LONGEST_S = 60.0
"""A rate that needs longer for enough samples is not tried."""
_PROBE_CONCURRENCY = 8
_AGAIN, _CONFIRMATION = 500, 1000
"""Seeds of trials of a rate that was tried before, from the plan's on."""
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
    capacity_after_per_s: float = 0.0
    """Of the same closed loop after the search; 0: there was none."""
    client_limit_per_s: float | None = None
    """The lowest rate that the client could not send in time; None: it could send every rate that was tried."""
    why: str = ""
    """Why no rate was found; empty: one was."""

    @property
    def closed_loop_per_s(self) -> float:
        """The closed loop's rate, before and after together; 0: there was none."""
        known = [rate for rate in (self.capacity_per_s, self.capacity_after_per_s) if rate]
        return sum(known) / len(known) if known else 0.0

    @property
    def wandered(self) -> float | None:
        """How far the machine itself went meanwhile: the closed loop after the search to before, less 1."""
        if not (self.capacity_per_s and self.capacity_after_per_s):
            return None
        return self.capacity_after_per_s / self.capacity_per_s - 1

    @property
    def limited_by(self) -> str:
        """Say who could not do more than what was found: `client` or `server`."""
        return "server" if self.client_limit_per_s is None else "client"


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
    target: Target,
    slo: Slo,
    plan: LoadPlan,
    extras: Extras,
    *,
    start_per_s: float | None = None,
    closeness: float = CLOSENESS,
    on_trial: Callable[[str], None] = lambda _text: None,
    on_measured: Callable[[Measurement], None] = lambda _m: None,
) -> Found:
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
    trials = _Trials(target, slo, plan, extras, on_trial, on_measured)
    capacity = 0.0
    if start_per_s is None:
        probe = trials.probe()
        capacity = probe.requests_per_s
        if not capacity or probe.interrupted or why_unusable(probe.cached_share):
            return Found(rate_per_s=None, trials=(), capacity_per_s=capacity, why=_unusable(probe))
        first = RateBracket(rate_per_s=0.8 * capacity, high=min(1.25 * capacity, MAX_RATE_PER_S), down=2)
    else:
        first = RateBracket(rate_per_s=start_per_s, high=MAX_RATE_PER_S)
    found = _confirm(trials, _close_in(trials, first, capacity, closeness), closeness)
    is_over = capacity and not trials.done[-1].interrupted
    after = trials.probe().requests_per_s if is_over else 0.0
    return Found(
        rate_per_s=found or None,
        trials=tuple(trials.done),
        capacity_per_s=capacity,
        capacity_after_per_s=after,
        client_limit_per_s=_client_limit(trials.done, above=found),
        why="" if found else _why_none(slo, trials.done),
    )


class _Trials:
    """Measures rates, and keeps what was measured."""

    def __init__(
        self,
        target: Target,
        slo: Slo,
        plan: LoadPlan,
        extras: Extras,
        on_trial: Callable[[str], None],
        on_measured: Callable[[Measurement], None],
    ) -> None:
        self.slo, self.done = slo, list[Measurement]()
        self._target, self._plan, self._extras = target, plan, extras
        self._on_trial, self._on_measured = on_trial, on_measured

    def probe(self) -> Measurement:
        """Measure a closed loop."""
        self._on_trial(f"closed loop of {_PROBE_CONCURRENCY}, {'once more' if self.done else 'for a first idea'}")
        plan = replace(self._plan, rate_per_s=0.0, concurrency=_PROBE_CONCURRENCY)
        probe = measure(self._target, plan, self._extras)
        self._on_measured(probe)
        return probe

    def try_rate(self, rate: float, seed: int) -> Measurement:
        """Measure a rate, with other arrivals for each seed."""
        self._on_trial(f"trial {len(self.done) + 1}: {rate:.4g}/s")
        plan = replace(
            self._plan,
            concurrency=0,
            rate_per_s=rate,
            duration_s=max(self._plan.duration_s, self.slo.least_s(rate)),
            seed=self._plan.seed + seed,
        )
        self.done.append(measure(self._target, plan, self._extras, repeat=len(self.done) + 1))
        self._on_measured(self.done[-1])
        return self.done[-1]


def _close_in(trials: _Trials, bracket: RateBracket, capacity: float, closeness: float) -> float:
    """Return the highest rate that held once; 0: none did."""
    while not bracket.has_ended:
        rate = bracket.rate_per_s
        measured = trials.try_rate(rate, _AGAIN if bracket.is_again else 0)
        if measured.interrupted:
            return 0.0
        idles = bool(capacity) and rate <= _IDLE * capacity
        verdict = TrialVerdict(
            held=trials.slo.holds(measured),
            late=_left_late(measured),
            hopeless=idles and (measured.p50_ms or 0) > trials.slo.bound_ms,
        )
        bracket = bracket.after(verdict, closeness)
        if trials.slo.least_s(bracket.rate_per_s) > _LONGEST_S:
            break
    return bracket.low


def _confirm(trials: _Trials, low: float, closeness: float) -> float:
    """Return the highest rate from `low` down that holds once more; 0: none does."""
    step = closeness
    for _ in range(_MOST_CONFIRMATIONS):
        if not low or trials.done[-1].interrupted:
            break
        if trials.slo.holds(trials.try_rate(low, _CONFIRMATION + len(trials.done))):
            return low
        low, step = low / step, min(step * step, 2.0)
    return 0.0


def _left_late(measured: Measurement) -> bool:
    return measured.late is not None and is_too_late(measured.late)


def _client_limit(trials: list[Measurement], *, above: float) -> float | None:
    """Return the lowest rate above one that the client could not send, if no rate below it failed for the server."""
    ended = [measured for measured in trials if measured.rate_per_s > above]
    lowest = min(ended, key=lambda measured: measured.rate_per_s, default=None)
    return lowest.rate_per_s if lowest is not None and _left_late(lowest) else None


def _unusable(measured: Measurement) -> str:
    """Return why a measurement tells nothing of latency; empty: it does."""
    return next(iter((*measured.invalid, *measured.errors)), "")


def _why_none(slo: Slo, trials: list[Measurement]) -> str:
    """Return why no rate holds, as the trials at the lowest rate show it; valid ones count before others."""
    lowest = min(trials, key=lambda measured: (measured.rate_per_s, bool(measured.invalid), slo.holds(measured)))
    rate, value = f"{lowest.rate_per_s:.4g}/s", getattr(lowest, slo.field)
    if _left_late(lowest):
        return (
            f"the client could not send even {rate} in time on this machine, so the server could not be judged; stop "
            "other programs, or run the client on another machine"
        )
    if unusable := _unusable(lowest):
        return f"at {rate} {unusable}"
    if value is None:
        return f"at {rate} too few requests were answered for p{slo.percent:g}"
    if value > slo.bound_ms:
        return f"at {rate}, the lowest that was tried, p{slo.percent:g} is {value:.4g} ms"
    if slo.holds(lowest):
        return f"{rate} met it once but not again; use a longer --duration, or stop other programs"
    return f"at {rate} only {lowest.requests_per_s:.4g}/s were answered"
