"""The result of a benchmark, as it is printed and stored."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

from resx._version import __version__
from resx.bench.load import LoadPlan, Window, closed_loop
from resx.bench.samples import MIN_SAMPLES, percentile
from resx.bench.server_statistics import ServerBreakdown, breakdown
from resx.serving.client import Address, TritonClient
from resx.zoo.spec import FrozenModel


class Measurement(FrozenModel):
    """One load on one model. Times are None where there are too few samples for them."""

    concurrency: int
    batch_size: int
    window_s: float
    requests: int
    images_per_s: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: dict[str, int]
    client_cpu_ms_per_request: float | None
    server: ServerBreakdown | None
    """None if the server does not give its statistics."""


class Environment(FrozenModel):
    """Where it was measured."""

    resx: str
    triton: str
    python: str
    machine: str
    usable_cores: int
    server_is_local: bool
    """The client then shares its cores with the server."""


class BenchResult(FrozenModel):
    """All loads of one benchmark."""

    schema_version: int = 1
    model: str
    version: int | None
    url: str
    environment: Environment
    measurements: tuple[Measurement, ...]


def run(
    address: Address, model: str, plans: Sequence[LoadPlan], *, version: int | None = None,
    on_measured: Callable[[Measurement], None] = lambda _measurement: None,
) -> BenchResult:  # fmt: skip
    """Run the plans one after another.

    Raises:
        UsageError: the model is not loaded, or takes no batch of that size.
        MissingCapability: no server answers.
    """
    measurements = []
    with TritonClient(address) as client:
        interface = client.interface(model, version)
        environment = _environment(address, client.server_version())
        for plan in plans:
            readings: list[list[dict[str, Any]]] = []

            def read(readings: list[list[dict[str, Any]]] = readings) -> None:
                readings.append(client.statistics(model, version))

            window = closed_loop(address, model, interface, plan, version, at_edge=read)
            measured = summarise(plan, window, breakdown(*readings))
            measurements.append(measured)
            on_measured(measured)
    return BenchResult(
        model=model,
        version=version,
        url=str(address),
        environment=environment,
        measurements=tuple(measurements),
    )


def summarise(plan: LoadPlan, window: Window, server: ServerBreakdown | None) -> Measurement:
    """Turn a window's samples into its figures."""
    samples = window.latencies_s
    enough = len(samples) >= MIN_SAMPLES[50]
    percentiles = {
        f"p{percent:g}_ms": None if (value := percentile(samples, percent)) is None else value * 1e3
        for percent in (50, 90, 99)
    }
    return Measurement(
        concurrency=plan.concurrency, batch_size=plan.batch_size, window_s=window.window_s, requests=len(samples),
        images_per_s=len(samples) * plan.batch_size / window.window_s,
        mean_ms=sum(samples) / len(samples) * 1e3 if enough else None,
        **percentiles,
        max_ms=samples[-1] * 1e3 if samples else None,
        errors=window.errors,
        client_cpu_ms_per_request=window.client_cpu_s / len(samples) * 1e3 if samples else None,
        server=server,
    )  # fmt: skip


def _environment(address: Address, triton: str) -> Environment:
    return Environment(
        resx=__version__, triton=triton, python=platform.python_version(), machine=_processor(),
        usable_cores=len(os.sched_getaffinity(0)),
        server_is_local=address.host_port.rpartition(":")[0] in {"127.0.0.1", "localhost", "[::1]"},
    )  # fmt: skip


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
