"""How many replicas hold a service level objective, found by simulating them.

More replicas never make it worse, so the least number is found by bisection. Every number of replicas meets the same
random numbers. A percentile is the mean over several runs with its 95 % confidence interval; the objective holds if
the interval's upper end is within the bound and next to nothing is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from resx.bench.capacity.service_times import ServiceTimes
from resx.bench.capacity.simulation import Balancing, Batching, Load, simulate
from resx.bench.comparing import interval
from resx.bench.load.load_plan import Arrivals
from resx.bench.results.result import Interval
from resx.bench.tuning.highest_rate import Slo
from resx.errors import ObjectiveMissed, UsageError
from resx.values import FrozenModel

MOST_REPLICAS = 10_000
MOST_RATE_PER_S = 10_000_000.0
REFUSED_AT_MOST = 1e-4
"""Share of requests that may find a full queue while an objective holds."""
_RUNS = 5
"""Of each simulation."""
_REQUESTS = 20_000
_WARM_UP = 0.1
_MOST_TOGETHER = 64
"""Replicas under least connections that are simulated; more of them have no smaller queues."""
_CLOSENESS = 1.02


class Estimate(FrozenModel):
    """Expected behavior of a number of replicas at a rate. Times are None if too many requests are refused."""

    replicas: int
    rate_per_s: float
    p50_ms: Interval | None
    p99_ms: Interval | None
    asked_ms: Interval | None
    """The objective's percentile."""
    utilisation: float
    """Share of the time that instances compute."""
    mean_batch_size: float
    refused: float
    """Share of the requests that are refused."""
    holds: bool


class CapacityPlan(FrozenModel):
    """Number of replicas that meet the objective, and what to expect of them."""

    model: str
    slo: str
    rate_per_s: float
    arrivals: str
    balancing: str
    replicas: int
    expected: Estimate
    alone_ms: float
    """The objective's percentile for a request that never waits."""
    capacity_per_s: float
    """Requests per second of one replica with full batches, at any latency."""
    highest_rate_per_s: float
    """Highest rate at which these replicas meet the objective."""
    headroom: float
    """Highest rate divided by the requested rate."""
    one_fewer: Estimate | None
    """Estimate after the loss of one replica; None if none is left."""
    cost_per_hour: float | None = None
    cost_per_million: float | None = None
    service: ServiceTimes


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked of a plan."""

    rate_per_s: float
    slo: Slo
    arrivals: Arrivals = "poisson"
    balancing: Balancing = "random"
    cost_per_hour: float | None = None
    """Of one replica."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s <= MOST_RATE_PER_S:
            raise UsageError(
                f"--rate {self.rate_per_s:g}: give more than 0 and at most {MOST_RATE_PER_S:,.0f} a second"
            )
        if self.cost_per_hour is not None and not 0 <= self.cost_per_hour < math.inf:
            raise UsageError(f"--cost-per-hour {self.cost_per_hour:g}: give the price of one replica, 0 or more")


def estimate(times: ServiceTimes, batching: Batching, question: Question, replicas: int, rate_per_s: float) -> Estimate:
    """Simulate some replicas under a rate."""
    service = times.service()
    if rate_per_s >= replicas * service.capacity_per_s(batching):
        return _overloaded(replicas, rate_per_s, replicas * service.capacity_per_s(batching), batching)
    together = question.balancing == "least-connections"
    simulated = min(replicas, _MOST_TOGETHER) if together else replicas
    load = Load(
        rate_per_s=rate_per_s * simulated / replicas,
        arrivals=question.arrivals,
        balancing=question.balancing,
        replicas=simulated,
    )
    num_requests = max(_REQUESTS, 1000 * simulated if together else 0)
    runs = [simulate(batching, service, load, requests=num_requests, seed=question.seed + run) for run in range(_RUNS)]
    settled = [run.latency_s[int(_WARM_UP * num_requests) :] for run in runs]

    def at(percent: float) -> Interval | None:
        found_ms = [1e3 * float(np.percentile(run, percent, method="inverted_cdf")) for run in settled]
        return interval(found_ms) if np.isfinite(found_ms).all() else None

    asked, refused = at(question.slo.percent), float(np.mean([np.isinf(run).mean() for run in settled]))
    within = asked is not None and asked.mean + asked.half_width <= question.slo.bound_ms
    return Estimate(
        replicas=replicas,
        rate_per_s=rate_per_s,
        p50_ms=at(50),
        p99_ms=at(99),
        asked_ms=asked,
        utilisation=float(np.mean([run.busy for run in runs])),
        refused=refused,
        mean_batch_size=float(np.mean([run.batch_sizes.mean() for run in runs])),
        holds=within and refused <= REFUSED_AT_MOST,
    )


def plan_replicas(
    times: ServiceTimes, batching: Batching, question: Question, on_try: Callable[[str], None] = lambda _text: None
) -> CapacityPlan:
    """Find the least replicas that hold the objective.

    Raises:
        ObjectiveMissed: a request that never waits takes longer than the bound, so no number of replicas holds it.
        ObjectiveMissed: it takes more than 10,000 replicas.
    """
    alone_ms = _alone_ms(times, question.slo)
    if alone_ms > question.slo.bound_ms:
        raise ObjectiveMissed(
            f"--slo {_words(question.slo)}: a single request takes {alone_ms:.3g} ms, so no number of replicas can "
            "meet it; raise the bound, or use a faster model or machine"
        )
    capacity = times.service().capacity_per_s(batching)
    tried: dict[int, Estimate] = {}

    def holds(replicas: int) -> bool:
        if replicas not in tried:
            on_try(f"simulate {replicas} replica{'s' if replicas > 1 else ''}")
            tried[replicas] = estimate(times, batching, question, replicas, question.rate_per_s)
        return tried[replicas].holds

    replicas = _least(holds, max(1, math.floor(question.rate_per_s / capacity)), question)
    on_try("find the headroom")
    highest = _highest_rate(times, batching, question, replicas, replicas * capacity)
    fewer = None
    if replicas > 1:
        holds(replicas - 1)
        fewer = tried[replicas - 1]
    cost = None if question.cost_per_hour is None else question.cost_per_hour * replicas
    return CapacityPlan(
        model=times.model,
        slo=_words(question.slo),
        rate_per_s=question.rate_per_s,
        arrivals=question.arrivals,
        balancing=question.balancing,
        replicas=replicas,
        expected=tried[replicas],
        alone_ms=alone_ms,
        capacity_per_s=capacity,
        highest_rate_per_s=highest,
        headroom=highest / question.rate_per_s,
        one_fewer=fewer,
        cost_per_hour=cost,
        cost_per_million=None if cost is None else cost / question.rate_per_s / 3600 * 1e6,
        service=times,
    )


def _least(holds: Callable[[int], bool], first: int, question: Question) -> int:
    """Return the least number that holds; every one below `first` is overloaded."""
    low, high = first - 1, first
    while high > MOST_REPLICAS or not holds(high):
        if high >= MOST_REPLICAS:
            raise ObjectiveMissed(
                f"--rate {question.rate_per_s:g}: --slo {_words(question.slo)} takes over {MOST_REPLICAS:,} replicas; "
                "give a lower rate or a higher bound"
            )
        low, high = high, min(MOST_REPLICAS, high + max(1, high // 4))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _highest_rate(
    times: ServiceTimes, batching: Batching, question: Question, replicas: int, capacity_per_s: float
) -> float:
    low, high = question.rate_per_s, capacity_per_s
    while high / low > _CLOSENESS:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if estimate(times, batching, question, replicas, middle).holds else (low, middle)
    return low


def _alone_ms(times: ServiceTimes, slo: Slo) -> float:
    return times.overhead_ms + times.rested * times.mean_ms[0] * float(np.percentile(times.shape, slo.percent))


def _overloaded(replicas: int, rate_per_s: float, capacity_per_s: float, batching: Batching) -> Estimate:
    return Estimate(
        replicas=replicas,
        rate_per_s=rate_per_s,
        p50_ms=None,
        p99_ms=None,
        asked_ms=None,
        utilisation=1.0,
        mean_batch_size=batching.max_batch_size,
        refused=1 - capacity_per_s / rate_per_s,
        holds=False,
    )


def _words(slo: Slo) -> str:
    return f"p{slo.percent:g}={slo.bound_ms:g}ms"
