import time

import numpy as np
import pytest

from resx.bench.load.request_times import MAX_KEPT, MAX_KINDS, Recorder
from resx.bench.results.samples import MIN_SAMPLES, Samples, merge, percentiles


@pytest.mark.parametrize(("percent", "least"), MIN_SAMPLES.items())
def test_a_percentile_needs_its_least_number_of_samples(percent: float, least: int) -> None:
    samples = np.arange(1.0, least + 1)
    field = f"p{percent:g}_ms".replace(".", "_")
    assert getattr(percentiles(samples), field) is not None
    assert getattr(percentiles(samples[:-1]), field) is None


def test_a_percentile_is_told_from_as_many_samples_as_early_stopping_asks_for() -> None:
    """The numbers of MLPerf LoadGen's rule at 99 % confidence, typed in: a p99 of 100 samples would mean nothing."""
    assert MIN_SAMPLES == {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}
    assert percentiles(np.arange(1.0, 101)).p99_ms is None


def test_latency_counts_from_when_a_request_was_due_and_service_from_when_it_was_sent() -> None:
    seen = Samples(
        due_ns=np.array([1_000_000, 2_000_000]),
        sent_ns=np.array([4_000_000, 2_500_000]),
        done_ns=np.array([9_000_000, 5_000_000]),
        kind=np.array([0, 0]),
        errors=(),
    )

    assert seen.latencies_ms.tolist() == [8.0, 3.0]
    assert seen.service_ms.tolist() == [5.0, 2.5]


def test_progress_tells_latencies_from_when_requests_were_due() -> None:
    recorder, long_ago_ns = Recorder(), time.monotonic_ns() - 10**9
    recorder.answered(long_ago_ns, time.monotonic_ns(), 0, b"")

    assert min(recorder.progress(0).latencies_ms) >= 1000.0


def test_percentiles_are_those_of_the_samples_to_a_thousandth() -> None:
    samples = np.random.default_rng(0).exponential(20.0, size=10_000)
    found = percentiles(samples)
    ascending = np.sort(samples)
    for percent, value in (
        (50, found.p50_ms),
        (90, found.p90_ms),
        (95, found.p95_ms),
        (99, found.p99_ms),
        (99.9, found.p99_9_ms),
    ):
        assert value == pytest.approx(ascending[round(percent / 100 * 10_000) - 1], rel=2e-3)
    assert found.mean_ms == pytest.approx(samples.mean())
    assert found.max_ms == samples.max()


def test_a_stall_shows_in_the_maximum_and_too_few_samples_give_no_figure() -> None:
    found = percentiles(np.array([2.0] * 9 + [500.0]))
    assert (found.mean_ms, found.p50_ms, found.p99_ms, found.max_ms) == (None, None, None, 500.0)
    assert percentiles(np.array([])).max_ms is None


def test_what_generators_saw_is_joined_with_their_errors() -> None:
    first, second = Recorder(), Recorder()
    first.answered(1, 2, 0, b"x")
    first.failed(3, 4, "a")
    second.failed(5, 6, "b")
    second.failed(7, 8, "a")
    second.failed(9, 10, "a")
    seen = merge([first.records(), second.records()])
    assert seen.due_ns.tolist() == [1, 3, 5, 7, 9]
    assert seen.error_counts == {"a": 3, "b": 1}
    assert len(seen.answered) == 1


def test_kept_answers_are_few_and_spread_over_the_whole_run() -> None:
    recorder = Recorder()
    for number in range(20_000):
        recorder.answered(0, 0, number, b"")
    kept = [payload for _, payload, _ in recorder.records().answers]
    assert MAX_KEPT / 4 < len(kept) <= MAX_KEPT
    assert min(kept) < 200
    assert max(kept) > 19_800


def test_kinds_of_errors_are_bounded() -> None:
    recorder = Recorder()
    for number in range(100):
        recorder.failed(0, 0, f"error {number}")
    assert len(recorder.records().errors) == MAX_KINDS + 1
