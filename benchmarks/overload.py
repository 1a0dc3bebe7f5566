"""Ten times more requests than the server can answer, for 30 s: what it refuses, how fast, and how it recovers.

    python -m benchmarks.overload [--model resnet50] [--factor 10] [--seconds 30]

Capacity is measured first (8 requests in flight). Then requests leave at `factor` times that rate whether or not
earlier ones were answered. Refusals are the server's own 503 for a full queue; anything else is an error.
Recovery is the time from the last of those requests until a request alone takes no more than twice what it took
before. Exit code 1 if an error was seen, recovery took over 5 s, or memory grew by more than the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.backend_memory import resident_mib

from resx.bench import measuring
from resx.bench.payloads import request_images
from resx.bench.plan import LoadPlan
from resx.errors import ResxError, ServerBusy
from resx.export.pipeline import ExportOptions
from resx.export.source import load_source
from resx.serving.client import Interface, TritonClient
from resx.serving.embedded import Ports
from resx.serving.publishing import export_into
from resx.serving.repository import Repository
from resx.serving.supervisor import ServerState, serve_detached, stop
from resx.serving.triton_config import ServingOptions

WORKERS = 400
"""Requests that can wait at once; the queue's bound must refuse before this many do."""
MEMORY_BAR_MIB = 300.0
RECOVERY_BAR_S = 5.0


@dataclass(slots=True)
class Outcome:
    """What became of the requests."""

    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    late: int = 0
    """Requests that found no free worker and were not sent."""


def main() -> int:
    """Measure, print one line for each phase, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description="Overload of the embedded server.")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-overload-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        source = load_source(options.model, weights="none", seed=0)
        export_into(repository, source, ExportOptions(), ServingOptions(), name=options.model, command="overload")
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
        try:
            return 0 if _measured(state, options.model, options.factor, options.seconds) else 1
        finally:
            stop(repository)


def _measured(state: ServerState, name: str, factor: float, seconds: float) -> bool:
    plan = LoadPlan(concurrency=8, duration_s=5.0, warmup_s=1.0)
    capacity = measuring.run(state.address("grpc"), name, [plan]).measurements[0].images_per_s
    with TritonClient(state.address("grpc")) as client:
        interface = client.interface(name)
        images = request_images(interface, 1, 0)
        alone_s = statistics.median(timed(client, name, interface, images) for _ in range(20))
        memory = resident_mib(state.server_pid)
        outcome, peak, ended = overload(state, name, interface, images, capacity * factor, seconds)
        while timed(client, name, interface, images) > 2 * alone_s and time.perf_counter() - ended < 60:
            pass
        recovery_s = time.perf_counter() - ended
    growth = peak - memory
    refusal_ms = [1e3 * second for second in sorted(outcome.refused_s)] or [float("nan")]
    print(
        f"{name}: capacity {capacity:.1f}/s, sent {capacity * factor:.0f}/s for {seconds:g} s: "
        f"{len(outcome.answered_s)} answered (median {statistics.median(outcome.answered_s):.2f} s), "
        f"{len(outcome.refused_s)} refused with 503 (median {statistics.median(refusal_ms):.1f} ms, "
        f"p99 {refusal_ms[int(0.99 * len(refusal_ms))]:.1f} ms), {outcome.late} not sent, "
        f"errors {dict(outcome.errors)}; "
        f"tritonserver {memory:.0f} MiB, at most {peak:.0f}; "
        f"alone {1e3 * alone_s:.1f} ms, again after {recovery_s:.2f} s"
    )
    return not outcome.errors and recovery_s <= RECOVERY_BAR_S and growth <= MEMORY_BAR_MIB


def overload(
    state: ServerState, name: str, interface: Interface, images: npt.NDArray[np.uint8], rate: float, seconds: float
) -> tuple[Outcome, float, float]:
    """Send at a constant rate.

    Returns:
        What became of the requests, the most memory that the server took in MiB, and when the last one was sent, on
        `time.perf_counter`'s clock; all of them have ended by then or later.
    """
    outcome, lock, free = Outcome(), threading.Lock(), threading.Semaphore(0)
    due, over = threading.Semaphore(0), threading.Event()

    def work() -> None:
        with TritonClient(state.address("grpc")) as client:
            while True:
                free.release()
                due.acquire()
                if over.is_set():
                    return
                sent = time.perf_counter()
                try:
                    client.infer(name, interface, images)
                except ServerBusy:
                    with lock:
                        outcome.refused_s.append(time.perf_counter() - sent)
                except ResxError as error:
                    with lock:
                        outcome.errors[str(error)] += 1
                else:
                    with lock:
                        outcome.answered_s.append(time.perf_counter() - sent)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    peak, started = 0.0, time.perf_counter()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, started + number / rate - time.perf_counter()))
        if free.acquire(blocking=False):
            due.release()
        else:
            outcome.late += 1
        if number % 100 == 0:
            peak = max(peak, resident_mib(state.server_pid))
    ended = time.perf_counter()
    over.set()
    for _ in workers:
        due.release()
    for worker in workers:
        worker.join()
    return outcome, peak, ended


def timed(client: TritonClient, name: str, interface: Interface, images: npt.NDArray[np.uint8]) -> float:
    """Return how long one request takes; inf if it is refused."""
    sent = time.perf_counter()
    try:
        client.infer(name, interface, images)
    except ServerBusy:  # its queue is not empty yet
        return float("inf")
    return time.perf_counter() - sent


if __name__ == "__main__":
    sys.exit(main())
