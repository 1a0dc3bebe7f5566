"""What the server's GPUs did while a load was measured, by readings that are handed in."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from resx.bench import measuring
from resx.bench.load.load_plan import LoadPlan
from resx.bench.report import html_report
from resx.bench.results.gpu_sampling import GpuSampler, GpuUse, Spread, summary
from resx.bench.results.result import BenchResult
from resx.cli.views.bench_result import gpu_line
from resx.serving.running.gpu_use import GpuReader, GpuReading
from tests.support.report_page import measurement, read_page, result
from tests.support.running_triton import RunningTriton

USE = GpuUse(
    name="0: NVIDIA L4",
    source="nvml",
    num_samples=3,
    utilization=Spread(min=0.2, mean=0.5, max=0.9),
    memory_used_bytes=Spread(min=1e9, mean=2e9, max=3.25e9),
    memory_total_bytes=24_000_000_000,
    power_w=Spread(min=40.0, mean=60.4, max=72.0),
)
UNKNOWN = USE.model_copy(update={"memory_used_bytes": None, "memory_total_bytes": None, "power_w": None})


def reading(utilization: float | None, power_w: float | None = None, name: str = "0: NVIDIA L4") -> GpuReading:
    return GpuReading(name=name, utilization=utilization, power_w=power_w)


def test_least_mean_and_most_are_of_the_samples_that_say_something() -> None:
    samples = [(reading(0.2, 50.0), reading(0.0, name="1")), (reading(0.6),), (), (reading(None, 70.0),)]
    first, second = summary(samples, "nvml") or ()
    assert first.utilization is not None
    assert first.utilization.model_dump() == pytest.approx({"min": 0.2, "mean": 0.4, "max": 0.6})
    assert first.power_w == Spread(min=50.0, mean=60.0, max=70.0)
    assert (first.num_samples, first.memory_used_bytes, second.num_samples) == (3, None, 1)
    assert summary([(), ()], "nvml") is None


def test_samples_are_taken_between_start_and_stop_and_a_short_window_has_one() -> None:
    taken = threading.Event()
    rates: Iterator[float] = iter([0.1, 0.2, 0.3])

    def read() -> tuple[GpuReading, ...]:
        rate = next(rates, None)
        if rate is None:
            taken.set()
            return ()
        return (reading(rate),)

    sampler = GpuSampler(GpuReader(source="triton_metrics", read=read), interval_s=0.001)
    sampler.start()
    assert taken.wait(30)
    (use,) = sampler.stop() or ()
    assert (use.num_samples, use.source) == (3, "triton_metrics")
    assert use.utilization is not None
    assert use.utilization.model_dump() == pytest.approx({"min": 0.1, "mean": 0.2, "max": 0.3})

    short = GpuSampler(GpuReader(source="nvml", read=lambda: (reading(0.7),)), interval_s=1000.0)
    short.start()
    (use,) = short.stop() or ()
    assert use.num_samples == 1


@pytest.mark.parametrize("reader", [None, GpuReader(source="nvml", read=lambda: ())])
def test_without_a_reader_or_an_answer_nothing_is_known(reader: GpuReader | None) -> None:
    sampler = GpuSampler(reader, interval_s=0.001)
    assert sampler.stop() is None  # it never began
    sampler = GpuSampler(reader, interval_s=0.001)
    sampler.start()
    assert sampler.stop() is None


@pytest.mark.triton
@pytest.mark.parametrize("has_gpu", [True, False])
def test_a_load_is_measured_with_its_gpus(triton: RunningTriton, has_gpu: bool) -> None:
    reader = GpuReader(source="nvml", read=lambda: (reading(0.5, 60.0),)) if has_gpu else None
    asked = []

    def find(address: object) -> GpuReader | None:
        asked.append(address)
        return reader

    plan = LoadPlan(concurrency=1, duration_s=0.3, warmup_s=0.1)
    target = measuring.target_of(triton.state.address("grpc"), "tiny", 1)
    measured = measuring.measure(target, plan, replace(measuring.Extras(measure_ceiling=False), gpu_reader=find))
    assert asked == [target.address]
    if not has_gpu:
        assert measured.gpus is None
        return
    (use,) = measured.gpus or ()
    assert use.utilization == Spread(min=0.5, mean=0.5, max=0.5)
    assert use.num_samples >= 1


def test_the_terminal_says_what_is_known_and_where_it_is_from() -> None:
    assert gpu_line(USE) == "GPU 0: NVIDIA L4: 50% busy (20% to 90%), 3.2 of 24.0 GB, 60 W (40 to 72); from NVML"
    assert gpu_line(UNKNOWN) == "GPU 0: NVIDIA L4: 50% busy (20% to 90%); from NVML"


def test_the_page_has_a_table_of_the_gpus_where_anything_is_known() -> None:
    plain = result(measurement())
    assert "GPU" not in read_page(html_report.html(plain)).one("server").text
    with_gpus = plain.model_copy(
        update={"measurements": tuple(m.model_copy(update={"gpus": (USE, UNKNOWN)}) for m in plain.measurements)}
    )
    text = read_page(html_report.html(with_gpus)).one("server").text
    assert "50 (20 to 90)" in text
    assert "60 (40 to 72)" in text
    assert "NVML" in text
    assert "n/a" in text


def test_results_of_older_versions_say_nothing_of_gpus_and_are_read() -> None:
    whole = result(measurement()).model_dump(mode="json")
    for measured in whole["measurements"]:
        assert measured.pop("gpus") is None
    assert all(m.gpus is None for m in BenchResult.model_validate(whole).measurements)
