"""More requests than the server can answer, and more of everything than it should keep in memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.backend_memory import memory_over_requests, resident_mib
from benchmarks.fault_clients import Row, published, serve
from benchmarks.overload import overloaded
from tests.support.running_triton import MODEL, current

from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.supervisor.detaching import stop

NETWORK, FACTOR = "resnet110", 10.0
"""Not one so fast that the generator cannot send ten times as much from the same cores."""
GROWTH_BAR_MIB = 16.0


def overload(seconds: float) -> list[Row]:
    """Send ten times what the server can answer; refusals must be its own 503, and it must be itself again soon."""
    with tempfile.TemporaryDirectory(prefix="resx-faults-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        source = load_source(NETWORK, weights="none", seed=0)
        export_into(repository, source, ExportOptions(), ServingOptions(), name=NETWORK, command="a benchmark")
        state = serve(repository)
        try:
            found = overloaded(state, NETWORK, FACTOR, seconds)
            restarts = current(repository).restarts
        finally:
            stop(repository)
    missed = (*found.missed, *((f"the server was brought back {restarts} times",) if restarts else ()))
    row = Row(
        fault=f"overload, {FACTOR:g} x {found.capacity_per_s:.0f}/s for {seconds:g} s",
        times=1,
        sent=len(found.samples),
        lost=sum(found.errors.values()),
        wrong=0,
        seconds=(found.recovery_s,),
        missed=missed,
        note=str(found),
    )
    return [row]


def memory(cycles: int, requests: int) -> list[Row]:
    """Load and unload a model again and again, then send it very many requests."""
    with published() as (repository, _):
        state = serve(repository)
        with TritonClient(state.address("grpc")) as client:
            warm, begun = 0.0, time.monotonic()
            for number in range(cycles):
                if number == cycles // 10:
                    warm = resident_mib(state.server_pid)
                client.unload(MODEL)
                while client.model_versions("UNLOADING"):
                    time.sleep(0.02)
                client.load(MODEL)
        cycled, took = resident_mib(state.server_pid), time.monotonic() - begun
        course = memory_over_requests(state, MODEL, requests)
    grown = cycled - warm
    return [
        Row(
            fault="memory over loads and unloads",
            times=cycles,
            sent=0,
            lost=0,
            wrong=0,
            seconds=(took / cycles,),
            note=f"tritonserver {warm:.1f} MiB after a tenth, {cycled:.1f} at the end",
            missed=(f"it grew by {grown:.1f} MiB",) if grown > GROWTH_BAR_MIB else (),
        ),
        Row(
            fault="memory over requests",
            times=1,
            sent=requests,
            lost=0,
            wrong=0,
            seconds=(),
            note=f"tritonserver {course.server_mib[0]:.1f} to {course.server_mib[1]:.1f} MiB, stubs "
            f"{course.stubs_mib[0]:.1f} to {course.stubs_mib[1]:.1f}, at {requests / course.seconds:.0f}/s",
            missed=(f"it grew by {course.growth_mib:.1f} MiB",) if course.growth_mib > GROWTH_BAR_MIB else (),
        ),
    ]
