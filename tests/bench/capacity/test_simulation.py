"""The simulation of a fleet, against what queueing theory knows and what Triton's batcher promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resx.bench.capacity.service_times import service_times
from resx.bench.capacity.simulation import BALANCINGS, Balancing, Batching, Load, Service, Simulated, simulate
from resx.bench.results.result import Measurement
from resx.bench.results.server_statistics import ServerBreakdown
from resx.errors import UsageError
from tests.support.report_page import measurement, result

EXPONENTIAL = tuple((-np.log1p(-(np.arange(4000) + 0.5) / 4000)).tolist())
"""Quantiles of the exponential distribution of mean 1."""


def mean_wait_s(found: Simulated, service_s: float) -> float:
    settled = found.latency_s[len(found.latency_s) // 10 :]
    return float(settled.mean()) - service_s


def erlang_c_wait(rate: float, service_s: float, servers: int) -> float:
    offered = rate * service_s
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last) * service_s / (servers - offered)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_instance_of_constant_times_waits_as_m_d_1_says(utilisation: float) -> None:
    found = simulate(Batching(), Service(mean_s=(0.01,)), Load(rate_per_s=100 * utilisation), requests=300_000, seed=1)
    assert mean_wait_s(found, 0.01) == pytest.approx(0.01 * utilisation / (2 * (1 - utilisation)), rel=0.05)
    assert found.busy == pytest.approx(utilisation, rel=0.02)


@pytest.mark.parametrize("servers", [1, 2, 5])
def test_instances_of_exponential_times_wait_as_erlang_c_says(servers: int) -> None:
    rate = 0.75 * servers * 100
    service = Service(mean_s=(0.01,), shape=EXPONENTIAL)
    found = simulate(Batching(instances=servers), service, Load(rate_per_s=rate), requests=400_000, seed=2)
    assert mean_wait_s(found, 0.01) == pytest.approx(erlang_c_wait(rate, 0.01, servers), rel=0.06)


def test_one_replica_that_is_chosen_at_random_sees_its_share() -> None:
    service = Service(mean_s=(0.01,))
    alone = simulate(Batching(), service, Load(rate_per_s=60), requests=200_000, seed=3)
    one_of_many = simulate(Batching(), service, Load(rate_per_s=600, replicas=10), requests=200_000, seed=4)
    assert one_of_many.latency_s.mean() == pytest.approx(alone.latency_s.mean(), rel=0.05)


def test_better_balancing_waits_less() -> None:
    service = Service(mean_s=(0.01,), shape=EXPONENTIAL)

    def wait_s(balancing: Balancing) -> float:
        load = Load(rate_per_s=4 * 80, replicas=4, balancing=balancing)
        return mean_wait_s(simulate(Batching(), service, load, requests=100_000), 0.01)

    assert wait_s("least-connections") < wait_s("round-robin") < wait_s("random")


def test_constant_arrivals_below_capacity_never_wait() -> None:
    found = simulate(Batching(), Service(mean_s=(0.01,)), Load(rate_per_s=99, arrivals="constant"), requests=1000)
    assert found.latency_s == pytest.approx(0.01)


def test_a_full_queue_refuses_and_what_waits_stays_bounded() -> None:
    batching = Batching(max_batch_size=4, max_queue_size=8)
    service = Service(mean_s=(0.01,) * 4)
    found = simulate(batching, service, Load(rate_per_s=800), requests=40_000)
    assert found.refused == pytest.approx(0.5, abs=0.02)
    answered = found.latency_s[np.isfinite(found.latency_s)]
    assert answered.max() <= 0.01 * (1 + 8 / 4 + 1)


def test_a_sleeping_batcher_delays_what_it_missed_and_no_more_than_its_sleep() -> None:
    load, service = Load(rate_per_s=30), Service(mean_s=(0.01, 0.01))
    awake = simulate(Batching(max_batch_size=2), service, load, requests=20_000)
    asleep = simulate(Batching(max_batch_size=2, sleep_s=0.5, missed=1.0), service, load, requests=20_000)
    assert awake.latency_s.max() < 0.06
    assert asleep.latency_s.max() > 0.2
    assert asleep.latency_s.max() <= 0.5 + 0.06


def test_a_delay_waits_for_a_preferred_size_and_then_no_longer() -> None:
    batching = Batching(max_batch_size=8, preferred_sizes=(4,), max_delay_s=0.02)
    assert [batching.takes(waiting, 0.001) for waiting in (1, 3, 4, 7, 9)] == [0, 0, 4, 4, 4]
    assert [batching.takes(waiting, 0.02) for waiting in (1, 7, 9)] == [1, 7, 8]
    service = Service(mean_s=(0.001,) * 8)
    rare = simulate(batching, service, Load(rate_per_s=1, arrivals="constant"), requests=50)
    assert rare.latency_s == pytest.approx(0.021)
    often = simulate(batching, service, Load(rate_per_s=1000, arrivals="constant"), requests=4000)
    assert set(often.batch_sizes.tolist()) == {4}


def test_a_seed_decides_everything() -> None:
    def latencies(seed: int, balancing: Balancing) -> bytes:
        load = Load(rate_per_s=500, replicas=3, balancing=balancing)
        service = Service(mean_s=(0.004, 0.005), shape=(0.5, 1.5))
        return simulate(Batching(max_batch_size=2), service, load, requests=500, seed=seed).latency_s.tobytes()

    for balancing in BALANCINGS:
        assert latencies(1, balancing) == latencies(1, balancing) != latencies(2, balancing)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(1, 3000),
    largest=st.integers(1, 9),
    instances=st.integers(1, 4),
    bound=st.integers(0, 30),
    delay=st.sampled_from([0.0, 0.003]),
    sleep=st.sampled_from([0.0, 0.005]),
    missed=st.floats(0, 1),
    replicas=st.integers(1, 4),
    balancing=st.sampled_from(BALANCINGS),
    seed=st.integers(0, 1000),
)
def test_nothing_is_lost_and_no_limit_is_exceeded(
    rate: float,
    largest: int,
    instances: int,
    bound: int,
    delay: float,
    sleep: float,
    missed: float,
    replicas: int,
    balancing: Balancing,
    seed: int,
) -> None:
    batching = Batching(
        max_batch_size=largest,
        instances=instances,
        max_queue_size=bound,
        max_delay_s=delay,
        sleep_s=sleep,
        missed=missed,
    )
    service = Service(mean_s=tuple(0.002 + 0.001 * size for size in range(largest)), shape=(0.8, 1.2), overhead_s=0.001)
    load = Load(rate_per_s=rate, replicas=replicas, balancing=balancing)
    found = simulate(batching, service, load, requests=600, seed=seed)

    answered = np.isfinite(found.latency_s)
    assert found.batch_sizes.sum() == answered.sum()
    assert found.batch_sizes.min() >= 1
    assert found.batch_sizes.max() <= largest
    assert found.latency_s[answered].min() >= 0.002 * 0.8 + 0.001 - 1e-9
    assert answered.all() or bound
    assert 0 < found.busy <= 1
    # Little's law: requests in the system, summed over time, are the latencies, summed over requests.
    inside_s = found.latency_s[answered] - service.overhead_s
    moments = np.concatenate([found.arrived_s[answered], found.arrived_s[answered] + inside_s])
    order = np.argsort(moments, kind="stable")
    steps = np.concatenate([np.ones(answered.sum()), -np.ones(answered.sum())])[order]
    area = float((np.cumsum(steps)[:-1] * np.diff(moments[order])).sum())
    assert area == pytest.approx(float(inside_s.sum()), rel=1e-6)


def test_an_instance_is_never_idle_while_a_request_waits() -> None:
    found = simulate(Batching(), Service(mean_s=(0.01,)), Load(rate_per_s=95), requests=5000)
    ends = found.arrived_s + found.latency_s
    begins = ends - 0.01
    assert begins[1:] == pytest.approx(np.maximum(found.arrived_s[1:], ends[:-1]))


@pytest.mark.parametrize(
    "wrong",
    [{"max_batch_size": 0}, {"instances": 0}, {"max_queue_size": -1}, {"missed": 2.0}, {"preferred_sizes": (3,)}],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="give"):
        Batching(**wrong)  # type: ignore[arg-type]


def test_the_time_between_batches_is_measured_where_requests_wait() -> None:
    """Of 300 batches in 3 s on one instance each has 10 ms, of which it computes a third of 1 + 2 + 8 ms."""

    def load(concurrency: int, requests_per_s: float, queue_ms: float) -> Measurement:
        server = ServerBreakdown(
            requests=1100,
            executions=300,
            mean_batch_size=11 / 3,
            queue_ms=queue_ms,
            compute_input_ms=0.0,
            compute_infer_ms=3.0,
            compute_output_ms=0.0,
            batches={1: 100, 2: 100, 8: 100},
            batch_compute_ms={1: 1.0, 2: 2.0, 8: 8.0},
        )
        return measurement(concurrency=concurrency, server=server, window_s=3.0, requests_per_s=requests_per_s)

    batching = Batching(max_batch_size=8)
    waiting = service_times(result(load(1, 100.0, 0.0), load(16, 367.0, 20.0)), "resnet20", batching)
    assert waiting.turnaround_ms == pytest.approx((10 - 11 / 3,) * 8)
    idle = service_times(result(load(1, 100.0, 0.0), load(2, 367.0, 0.1)), "resnet20", batching)
    assert idle.turnaround_ms == (0.0,), "an instance without work is not slow to take it"


def test_a_turnaround_takes_from_the_capacity() -> None:
    service = Service(mean_s=(0.001, 0.002), turnaround_s=(0.001, 0.003))
    assert service.capacity_per_s(Batching(max_batch_size=2)) == pytest.approx(2 / 0.005)
    slow = Service(mean_s=(0.001,), turnaround_s=(0.001,))
    found = simulate(Batching(max_batch_size=1), slow, Load(rate_per_s=900.0), requests=4000)
    assert found.busy == pytest.approx(0.5, abs=0.05), "at an overload half of the time is turnaround"
