"""More requests than the server can answer, and more of everything than it should keep in memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.backend_memory import memory_over_requests, resident_mib
from benchmarks.fault_clients import FREE, MODEL, Row, current, published
from benchmarks.overload import MEMORY_BAR_MIB, RECOVERY_BAR_S, overload, timed

from resx.bench import measuring
from resx.bench.payloads import request_images
from resx.bench.plan import LoadPlan
from resx.export.pipeline import ExportOptions
from resx.export.source import load_source
from resx.serving.client import TritonClient
from resx.serving.detached import serve_detached, stop
from resx.serving.publishing import export_into
from resx.serving.repository import Repository
from resx.serving.triton_config import ServingOptions

NETWORK, FACTOR = "resnet20", 10.0
GROWTH_BAR_MIB = 16.0


def overloaded(seconds: float) -> list[Row]:
    """Send ten times what the server can answer; refusals must be its own 503, and it must be itself again soon."""
    with tempfile.TemporaryDirectory(prefix="resx-faults-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        source = load_source(NETWORK, weights="none", seed=0)
        export_into(repository, source, ExportOptions(), ServingOptions(), name=NETWORK, command="a benchmark")
        state = serve_detached(repository, FREE)
        try:
            plan = LoadPlan(concurrency=8, duration_s=3.0, warmup_s=1.0)
            capacity = measuring.run(state.address("grpc"), NETWORK, [plan]).measurements[0].images_per_s
            with TritonClient(state.address("grpc")) as client:
                interface = client.interface(NETWORK)
                images = request_images(interface, 1, 0)
                usual_s = statistics.median(timed(client, NETWORK, interface, images) for _ in range(50))
                before = resident_mib(state.server_pid)
                outcome, peak, ended = overload(state, NETWORK, interface, images, capacity * FACTOR, seconds)
                while timed(client, NETWORK, interface, images) > 2 * usual_s and time.perf_counter() - ended < 60:
                    pass
                recovery_s = time.perf_counter() - ended
            restarts = current(repository).restarts
        finally:
            stop(repository)
    refused = len(outcome.refused_s)
    bars = {
        f"errors that are no 503: {dict(outcome.errors)}": bool(outcome.errors),
        "nothing was refused": refused == 0,
        f"the server was brought back {restarts} times": restarts > 0,
        f"a request alone took its usual time again after {recovery_s:.1f} s": recovery_s > RECOVERY_BAR_S,
        f"tritonserver grew by {peak - before:.0f} MiB": peak - before > MEMORY_BAR_MIB,
    }
    slowest_ms = 1e3 * statistics.median(outcome.refused_s) if refused else float("nan")
    row = Row(
        fault=f"overload, {FACTOR:g} x {capacity:.0f}/s for {seconds:g} s", times=1,
        sent=len(outcome.answered_s) + refused + outcome.errors.total(), lost=outcome.errors.total(), wrong=0,
        seconds=(recovery_s,), missed=tuple(what for what, bad in bars.items() if bad),
        note=f"{len(outcome.answered_s)} answered, {refused} refused with 503 (median {slowest_ms:.1f} ms), "
        f"{outcome.late} not sent as 400 were waiting; tritonserver {before:.0f} to {peak:.0f} MiB",
    )  # fmt: skip
    return [row]


def memory(cycles: int, requests: int) -> list[Row]:
    """Load and unload a model again and again, then send it very many requests."""
    with published() as (repository, _):
        state = serve_detached(repository, FREE)
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
            fault="memory over loads and unloads", times=cycles, sent=0, lost=0, wrong=0, seconds=(took / cycles,),
            note=f"tritonserver {warm:.1f} MiB after a tenth, {cycled:.1f} at the end",
            missed=(f"it grew by {grown:.1f} MiB",) if grown > GROWTH_BAR_MIB else (),
        ),
        Row(
            fault="memory over requests", times=1, sent=requests, lost=0, wrong=0, seconds=(),
            note=f"tritonserver {course.server_mib[0]:.1f} to {course.server_mib[1]:.1f} MiB, stubs "
            f"{course.stubs_mib[0]:.1f} to {course.stubs_mib[1]:.1f}, at {requests / course.seconds:.0f}/s",
            missed=(f"it grew by {course.growth_mib:.1f} MiB",) if course.growth_mib > GROWTH_BAR_MIB else (),
        ),
    ]  # fmt: skip
