"""How long a served model takes for each batch size, from a benchmark's result or measured now.

The means are Triton's own, of runs while every instance had work: instances that share cores slow each other, and an
instance that runs alone would promise too much. A request that comes after a pause takes longer than one that follows
another, as cores, caches and threads have turned to something else. How much longer, what it costs outside of the
computation, and how its time varies is seen in an open loop far below the capacity; where there is none, in requests
one at a time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from resx.bench.capacity.simulation import Batching, Service
from resx.bench.load.load_plan import MAX_CONCURRENCY, MAX_RATE_PER_S, LoadPlan
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras, measure, result_of
from resx.bench.results.response_cache import why_unusable
from resx.bench.results.result import BenchResult, Measurement
from resx.errors import UsageError
from resx.serving.embedded.backends.config_values import num_instances
from resx.values import FrozenModel

LEAST_RUNS = 5
"""Of a batch size, for its mean to count."""
SLEEP_MS = 5.0
"""Of the embedded server's batcher where a policy holds requests back (`resx.serving.embedded.patches.batcher`)."""
MISSED = 0.3
"""Share of the instances' returns that a batcher misses which fetches nothing ahead."""
FETCHED_AHEAD = 2
"""Batches for each instance."""
CALM = 0.1
"""Of the highest closed loop: the open one in which nearly all requests find an instance without work."""
_CALM_AT_MOST = 0.2
"""Utilisation up to which an open loop counts as such."""
_SAMPLES_OF_CALM = 662
"""As many as a 99th percentile takes; with fewer, single requests say more."""
_MOST_CALM = 8
"""Loads of the others' duration that it may take."""
_WAITING = 1.0
"""Requests that wait per instance, on average, for the time between batches to be the server's and not the load's."""
_PARTS = 256


class ServiceTimes(FrozenModel):
    """What was measured of one replica."""

    model: str
    instances: int
    runs: dict[int, int]
    """Number of runs of each batch size."""
    mean_ms: tuple[float, ...]
    """By batch size, from 1, while requests wait; those without runs lie between their neighbours."""
    rested: float
    """How much longer a batch takes that finds its instance without work: a factor, 1 or more."""
    shape: tuple[float, ...]
    """Quantiles of a service time, in means."""
    turnaround_ms: tuple[float, ...]
    """From an instance's answer until it has the next batch, by the batch's size; 0 where no load kept it busy."""
    overhead_ms: float
    """Time outside of the computation for a request that does not wait: network, server, client."""

    def service(self) -> Service:
        """Return it for the simulation."""
        return Service(
            mean_s=tuple(mean / 1e3 for mean in self.mean_ms),
            rested_s=tuple(self.rested * mean / 1e3 for mean in self.mean_ms),
            shape=self.shape,
            turnaround_s=tuple(value / 1e3 for value in self.turnaround_ms),
            overhead_s=self.overhead_ms / 1e3,
        )


def batching_of(config: Mapping[str, Any], sleep_ms: float = 0.0) -> Batching:
    """Return how a model's configuration, as Triton's JSON, joins requests.

    Args:
        config: of the model.
        sleep_ms: of the batcher, in a server whose bounded queue fetches nothing ahead; 0: the embedded server, whose
            does.

    Raises:
        UsageError: a number in it cannot be.
    """
    instances = num_instances(config)
    dynamic = config.get("dynamic_batching")
    if dynamic is None:
        return Batching(instances=instances)
    policy = dynamic.get("default_queue_policy", {})
    bound = int(policy.get("max_queue_size", 0))
    largest = max(1, int(config.get("max_batch_size", 0)))
    holds_back = bool(int(policy.get("default_timeout_microseconds", 0)) or policy.get("allow_timeout_override"))
    sleeps = holds_back or bool(bound and sleep_ms)
    # Without fetching ahead no batch is larger than what may wait for it.
    largest = min(largest, bound) if bound and sleeps else largest
    ahead = 0 if sleeps else FETCHED_AHEAD * instances * largest
    return Batching(
        max_batch_size=largest,
        instances=instances,
        max_queue_size=bound + ahead if bound else 0,
        preferred_sizes=tuple(size for size in map(int, dynamic.get("preferred_batch_size", ())) if size <= largest),
        max_delay_s=int(dynamic.get("max_queue_delay_microseconds", 0)) / 1e6,
        sleep_s=(sleep_ms or SLEEP_MS) / 1e3 if sleeps else 0.0,
        missed=MISSED if sleeps else 0.0,
    )


def concurrencies_for(batching: Batching) -> list[int]:
    """Return the closed loops that show every batch size: one request, then up to three of the largest batches."""
    least, most = 2 * batching.instances, 3 * batching.max_batch_size * batching.instances
    if batching.max_queue_size:
        most = min(most, batching.max_queue_size)
    most = min(max(most, least), MAX_CONCURRENCY)
    found = [1]
    while least < most:
        found.append(least)
        least *= 2
    return [*found, most]


def measure_now(
    target: Target,
    batching: Batching,
    *,
    duration_s: float,
    seed: int,
    on_load: Callable[[str], None] = lambda _title: None,
) -> BenchResult:
    """Measure a served model in closed loops, as `resx bench --concurrency` does, and in an open one well below them.

    Raises:
        ResxError: the first request failed; the server's own reason.
    """
    found = []
    for concurrency in concurrencies_for(batching):
        plan = LoadPlan(concurrency=concurrency, duration_s=duration_s, warmup_s=min(1.0, duration_s / 4), seed=seed)
        on_load(f"measure {target.model}, {plan.title}")
        found.append(measure(target, plan, Extras(measure_ceiling=False)))
    rate_per_s = min(MAX_RATE_PER_S, max(CALM * max(one.requests_per_s for one in found), 1.0))
    # Some more than count, as arrivals are random; a slow model does not get them, and does not need them.
    calm_s = min(max(2 * duration_s, 1.2 * _SAMPLES_OF_CALM / rate_per_s), _MOST_CALM * duration_s)
    plan = LoadPlan(rate_per_s=rate_per_s, duration_s=calm_s, warmup_s=min(1.0, duration_s / 4), seed=seed)
    on_load(f"measure {target.model}, {plan.title}")
    return result_of(target, [*found, measure(target, plan, Extras(measure_ceiling=False))])


def service_times(
    result: BenchResult, model: str, batching: Batching, version: int | None = None, where: str = "the measurement"
) -> ServiceTimes:
    """Read service times out of a benchmark's result.

    Args:
        result: of `resx bench NAME --concurrency ... -o FILE`, with requests of one image.
        model: that it must be of.
        batching: of the model; what it cannot do is not asked for.
        version: that it must be of; None: any.
        where: what the result is called in errors.

    Raises:
        UsageError: it is of another model or version, or does not show every batch size.
    """
    loads = [one for one in result.measurements if one.model == model and (version in (None, one.version))]
    if not loads:
        known = ", ".join(sorted({one.target for one in result.measurements}))
        asked = model if version is None else f"{model}:{version}"
        raise UsageError(f"{where}: measures {known or 'no model'}, not {asked}; give a result of `resx bench {asked}`")
    for load in loads:
        if cached := why_unusable(load.cached_share):
            raise UsageError(f"{where}: {cached}")
        if load.cached_share is None and result.environment.response_cache:  # an older version's result
            raise UsageError(f"{where}: does not record how many answers came from the response cache; measure again")
    counts = ",".join(map(str, concurrencies_for(batching)))
    remedy = f"measure with `resx bench {model} --concurrency {counts} -o FILE`"
    loads = [one for one in loads if one.server and one.batch_size == 1 and not one.interrupted and not one.failed]
    alone = [one for one in loads if one.load == "closed" and one.concurrency == 1]
    busy = [one for one in loads if one.load == "open" or one.concurrency >= 2 * batching.instances]
    if not alone or not busy:
        raise UsageError(f"{where}: needs single-image loads at concurrency 1 and at a higher one; {remedy}")
    closed = [one for one in busy if one.load == "closed"]
    # What closed loops do not show is taken from whatever does; one of several instances, alone, is too quick for it.
    seen = _frequent_batches([*busy, *(alone if batching.instances == 1 else ())]) | _frequent_batches(closed)
    sizes, largest = sorted(seen), batching.max_batch_size
    if not sizes or sizes[0] > max(1, largest // 4) or sizes[-1] < largest:
        known = ", ".join(map(str, sizes)) or "none"
        raise UsageError(
            f"{where}: batch sizes {known} have {LEAST_RUNS} runs or more, 1 to {largest} are needed; {remedy}"
        )
    means = np.interp(np.arange(1, largest + 1), sizes, [seen[size].mean_ms for size in sizes])
    mean_ms = tuple(np.maximum.accumulate(means).tolist())
    calm = _calmest(busy, mean_ms[0] / batching.instances) or alone[0]
    return ServiceTimes(
        model=model,
        instances=batching.instances,
        runs={size: seen[size].runs for size in sizes},
        mean_ms=mean_ms,
        rested=_rest_penalty(calm, mean_ms[0]),
        shape=_shape(calm, batching),
        turnaround_ms=_turnaround_ms(busy, batching),
        overhead_ms=_overhead_ms(calm, alone[0], batching),
    )


class _Batches(NamedTuple):
    """What was seen of a batch size."""

    runs: int
    mean_ms: float


def _frequent_batches(loads: Sequence[Measurement]) -> dict[int, _Batches]:
    """Return the batch sizes that ran often enough in these loads together, and how long they took."""
    runs: Counter[int] = Counter()
    sums_ms: dict[int, float] = defaultdict(float)
    for load in loads:
        assert load.server is not None
        for size, mean_ms in load.server.batch_compute_ms.items():
            runs[size] += load.server.batches[size]
            sums_ms[size] += load.server.batches[size] * mean_ms
    return {size: _Batches(runs[size], sums_ms[size] / runs[size]) for size in runs if runs[size] >= LEAST_RUNS}


def _calmest(loads: Sequence[Measurement], busy_ms: float) -> Measurement | None:
    """Return the open loop of the lowest rate, if it keeps the instances idle most of the time.

    Args:
        loads: among which it is.
        busy_ms: of the server, for each request.
    """
    calm = [
        one
        for one in loads
        if one.load == "open" and one.requests >= _SAMPLES_OF_CALM and one.rate_per_s * busy_ms / 1e3 <= _CALM_AT_MOST
    ]
    return min(calm, key=lambda one: one.rate_per_s, default=None)


def _rest_penalty(calm: Measurement, busy_ms: float) -> float:
    """Return how much longer a single request's computation took where it found an instance without work."""
    single = _frequent_batches([calm]).get(1)
    return max(1.0, single.mean_ms / busy_ms) if single else 1.0


def _turnaround_ms(busy: Sequence[Measurement], batching: Batching) -> tuple[float, ...]:
    """Return by batch size how long an instance that had work waiting did not compute, from the batches per second."""
    found: dict[float, float] = {}
    for load in busy:
        server = load.server
        if server is None or not server.executions or _waiting(load) < _WAITING * batching.instances:
            continue
        cycle_ms = 1e3 * load.window_s * batching.instances / server.executions
        compute_ms = sum(server.batches[size] * mean for size, mean in server.batch_compute_ms.items())
        found[server.mean_batch_size] = max(0.0, cycle_ms - compute_ms / server.executions)
    sizes = sorted(found)
    if not sizes:
        return (0.0,)
    every = np.arange(1, batching.max_batch_size + 1)
    return tuple(np.interp(every, sizes, [found[size] for size in sizes]).tolist())


def _waiting(load: Measurement) -> float:
    """Return the mean number of requests in the server's queue (Little's law)."""
    return load.requests_per_s * load.server.queue_ms / 1e3 if load.server else 0.0


def _overhead_ms(calm: Measurement, alone: Measurement, batching: Batching) -> float:
    """Return what a request took beyond computing and waiting for others, from when it was due.

    A request alone is in the queue for as long as it takes to be handed on, or as the batcher sleeps.
    """
    assert calm.server is not None
    assert alone.server is not None
    if calm.mean_ms is None:
        return 0.0
    handed_on_ms = 0.0 if batching.sleep_s else min(alone.server.queue_ms, calm.server.queue_ms)
    return max(0.0, calm.mean_ms - calm.server.queue_ms + handed_on_ms - calm.server.compute_ms)


def _shape(calm: Measurement, batching: Batching) -> tuple[float, ...]:
    """Return the latencies of requests that did not wait, relative to their mean, without the batcher's sleep."""
    from hdrh.histogram import HdrHistogram

    assert calm.server is not None
    made = HdrHistogram.decode(calm.hdr)
    # Requests that found the batcher asleep are the slowest; they waited for about as long as it sleeps, at most.
    slept = min(0.1, 2 * calm.server.queue_ms / 1e3 / batching.sleep_s) if batching.sleep_s else 0.0
    percents = (1 - slept) * 100 * (np.arange(_PARTS) + 0.5) / _PARTS
    values = np.array([made.get_value_at_percentile(percent) for percent in percents], np.float64)
    return tuple((values / values.mean()).tolist())
