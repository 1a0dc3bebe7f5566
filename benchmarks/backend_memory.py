"""Memory of the embedded server and of its Python stub over very many requests of a tiny model.

    python -m benchmarks.backend_memory [--requests 200000] [--bar-mib 16] [--native] [--runtime openvino]

Each request carries one image of a three-block network, from several connections at once. Memory is the resident
set of tritonserver and of its stubs, read from /proc after a tenth of the requests (everything is warm by then)
and at the end. Exit code 1 if it grew by more than the bar.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.support.tiny_models import publish_tiny

from resx.card.runtime import RUNTIMES
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop

CONNECTIONS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCourse:
    """What was seen."""

    requests: int
    seconds: float
    server_mib: tuple[float, float]
    """Warm, and at the end."""
    stubs_mib: tuple[float, float]
    log_bytes: int
    """What the requests added to the server's log."""

    @property
    def growth_mib(self) -> float:
        """Of server and stubs together, since they were warm."""
        return self.server_mib[1] - self.server_mib[0] + self.stubs_mib[1] - self.stubs_mib[0]


def main() -> int:
    """Serve a tiny network, send the requests, print the course, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description="Memory of the embedded server over very many requests.")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--bar-mib", type=float, default=16.0, help="most growth")
    parser.add_argument("--native", action="store_true", help="of the native backend, which has no stubs")
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-memory-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        publish_tiny(repository, "tiny", runtime=options.runtime)
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--native"] if options.native else [])
        try:
            course = memory_over_requests(state, "tiny", options.requests)
        finally:
            stop(repository)
    holds = course.growth_mib <= options.bar_mib
    print(
        f"{course.requests} requests in {course.seconds:.0f} s ({course.requests / course.seconds:.0f}/s): "
        f"tritonserver {course.server_mib[0]:.1f} to {course.server_mib[1]:.1f} MiB, "
        f"stubs {course.stubs_mib[0]:.1f} to {course.stubs_mib[1]:.1f} MiB, log +{course.log_bytes} bytes; "
        f"growth {course.growth_mib:+.1f} MiB, bar {options.bar_mib:g} {'holds' if holds else 'MISSED'}"
    )
    return 0 if holds else 1


def memory_over_requests(state: ServerState, name: str, requests: int) -> MemoryCourse:
    """Send the requests to a served model and return what that did to the server's memory."""
    warm_up = requests // 10
    _send(state, name, warm_up)
    log = Path(state.log)
    server, stubs, log_bytes = resident_mib(state.server_pid), _stubs_mib(state.server_pid), log.stat().st_size
    started = time.perf_counter()
    _send(state, name, requests - warm_up)
    return MemoryCourse(
        requests=requests,
        seconds=(time.perf_counter() - started) * requests / (requests - warm_up),
        server_mib=(server, resident_mib(state.server_pid)),
        stubs_mib=(stubs, _stubs_mib(state.server_pid)),
        log_bytes=log.stat().st_size - log_bytes,
    )


def resident_mib(pid: int) -> float:
    """Return a process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def _stubs_mib(server_pid: int) -> float:
    tasks = Path(f"/proc/{server_pid}/task")
    children = {child for task in tasks.iterdir() for child in (task / "children").read_text().split()}
    return sum(resident_mib(int(child)) for child in children)


def _send(state: ServerState, name: str, requests: int) -> None:
    workers = [threading.Thread(target=_ask, args=(state, name, requests // CONNECTIONS)) for _ in range(CONNECTIONS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _ask(state: ServerState, name: str, requests: int) -> None:
    images = np.zeros((1, 3, 16, 16), np.uint8)
    with TritonClient(state.address("grpc")) as client:
        interface = client.interface(name)
        for _ in range(requests):
            client.infer(name, interface, images)


if __name__ == "__main__":
    sys.exit(main())
