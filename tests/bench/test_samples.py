import math

import numpy as np
import pytest

from resx.bench.load import LoadPlan, Window
from resx.bench.report import summarise
from resx.bench.samples import MIN_SAMPLES, percentile
from resx.bench.server_statistics import breakdown
from resx.errors import UsageError


@pytest.mark.parametrize(("percent", "least"), MIN_SAMPLES.items())
def test_a_percentile_needs_its_least_number_of_samples(percent: float, least: int) -> None:
    samples = [float(n) for n in range(least)]
    assert percentile(samples, percent) is not None
    assert percentile(samples[:-1], percent) is None


def test_percentiles_are_nearest_rank() -> None:
    samples = sorted(np.random.default_rng(0).exponential(size=10_000).tolist())
    for percent in (50, 90, 99, 99.9):
        value = percentile(samples, percent)
        assert value in samples
        assert value == samples[math.ceil(percent / 100 * 10_000) - 1]


def test_a_stall_shows_in_the_maximum() -> None:
    samples = (*([0.002] * 999), 0.5)
    measured = summarise(
        LoadPlan(concurrency=1), Window(latencies_s=samples, errors={}, window_s=2.5, client_cpu_s=0.5), None
    )
    assert measured.p50_ms == 2.0
    assert measured.max_ms == 500.0
    assert measured.images_per_s == 400.0
    assert measured.client_cpu_ms_per_request == 0.5


def test_too_few_samples_give_no_figure() -> None:
    window = Window(latencies_s=(0.1,) * 10, errors={"x": 2}, window_s=1.0, client_cpu_s=0.0)
    measured = summarise(LoadPlan(concurrency=1), window, None)
    assert (measured.p50_ms, measured.p90_ms, measured.p99_ms, measured.mean_ms) == (None, None, None, None)
    assert measured.errors == {"x": 2}


@pytest.mark.parametrize(
    "fields", [{"concurrency": 0}, {"concurrency": 1, "batch_size": 0}, {"concurrency": 1, "duration_s": 0.0},
               {"concurrency": 1, "duration_s": math.nan}, {"concurrency": 1, "warmup_s": -1.0}]
)  # fmt: skip
def test_a_plan_that_cannot_be_run_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give"):
        LoadPlan(**fields)  # type: ignore[arg-type]


def test_the_servers_breakdown_is_a_difference() -> None:
    def reading(requests: int, executions: int) -> list[dict[str, object]]:
        phase = {"count": str(requests), "ns": str(requests * 2_000_000)}
        phases = ("queue", "compute_input", "compute_infer", "compute_output")
        inference = {"success": {"count": str(requests)}} | dict.fromkeys(phases, phase)
        return [
            {"inference_stats": inference, "execution_count": str(executions), "inference_count": str(requests * 3)}
        ]

    seen = breakdown(reading(10, 5), reading(110, 30))
    assert seen is not None
    assert (seen.requests, seen.executions, seen.mean_batch_size) == (100, 25, 12.0)
    assert seen.queue_ms == pytest.approx(2.0)
    assert breakdown(reading(10, 5), reading(10, 5)) is None
