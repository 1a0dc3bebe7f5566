"""Ten times more requests than the server can answer, for 30 s: what it refuses, how fast, and how it recovers.

    python -m benchmarks.overload [--model resnet50] [--factor 10] [--seconds 30] [--native]

Capacity is measured first (8 requests in flight). Then requests leave at `factor` times that rate whether or not
earlier ones were answered, from the load generator of `resx bench`, which shares the server's cores. Refusals are the
server's own 503 for a full queue; anything else is an error. Recovery is the time from the last of those requests until
a request alone takes no more than twice what it took before. Exit code 1 if an error was seen, nothing was refused,
fewer than nine tenths of the requests left, recovery took over 5 s, or memory grew by more than the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.backend_memory import resident_mib

from resx.bench import measuring
from resx.bench.load import wire
from resx.bench.load.generator import Generators
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.load_task import LoadTask
from resx.bench.load.payloads import request_images
from resx.bench.measuring import Extras
from resx.bench.results.samples import Samples, merge, percentiles
from resx.errors import ServerBusy
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.interface import Interface
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop

MEMORY_BAR_MIB = 300.0
RECOVERY_BAR_S = 5.0
SENT_BAR = 0.9
_GIVE_UP_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Overload:
    """What became of the requests, and of the server."""

    capacity_per_s: float
    rate_per_s: float
    seconds: float
    samples: Samples
    alone_s: float
    recovery_s: float
    """Since the last request left."""
    memory_mib: tuple[float, float]
    """Of tritonserver: before, and at most."""

    @property
    def refused(self) -> Samples:
        """Those that the server said were too many."""
        kinds = [1 + place for place, error in enumerate(self.samples.errors) if error.startswith("503 ")]
        return self.samples.where(np.isin(self.samples.kind, kinds))

    @property
    def errors(self) -> dict[str, int]:
        """How many ended otherwise."""
        return {why: number for why, number in self.samples.error_counts.items() if not why.startswith("503 ")}

    @property
    def missed(self) -> tuple[str, ...]:
        """The bars that did not hold."""
        growth = self.memory_mib[1] - self.memory_mib[0]
        sent = len(self.samples) / (self.rate_per_s * self.seconds)
        bars = {
            f"errors that are no 503: {self.errors}": bool(self.errors),
            "nothing was refused": len(self.refused) == 0,
            f"only {sent:.0%} of the requests left": sent < SENT_BAR,
            f"a request alone took its usual time again after {self.recovery_s:.1f} s": self.recovery_s
            > RECOVERY_BAR_S,
            f"tritonserver grew by {growth:.0f} MiB": growth > MEMORY_BAR_MIB,
        }
        return tuple(what for what, bad in bars.items() if bad)

    def __str__(self) -> str:
        """Return it in words."""
        answered, refused = percentiles(self.samples.answered.service_ms), percentiles(self.refused.service_ms)
        return (
            f"{len(self.samples)} sent, {len(self.samples.answered)} answered ({_ms(answered.p50_ms)}), "
            f"{len(self.refused)} refused with 503 ({_ms(refused.p50_ms)}, p99 {_ms(refused.p99_ms)}); alone "
            f"{1e3 * self.alone_s:.1f} ms, again after {self.recovery_s:.2f} s; tritonserver {self.memory_mib[0]:.0f} "
            f"MiB, at most {self.memory_mib[1]:.0f}"
        )


def main() -> int:
    """Measure, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description="Overload of the embedded server.")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--native", action="store_true", help="`resx serve --native`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-overload-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        source = load_source(options.model, weights="none", seed=0)
        export_into(repository, source, ExportOptions(), ServingOptions(), name=options.model, command="overload")
        native = ["--native"] if options.native else []
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0), native)
        try:
            found = overloaded(state, options.model, options.factor, options.seconds)
        finally:
            stop(repository)
    asked = f"{found.rate_per_s:.0f}/s for {found.seconds:g} s"
    print(f"{options.model}: capacity {found.capacity_per_s:.1f}/s, asked {asked}: {found}")
    print("all bars hold" if not found.missed else f"MISSED: {'; '.join(found.missed)}")
    return 1 if found.missed else 0


def overloaded(state: ServerState, name: str, factor: float, seconds: float) -> Overload:
    """Measure what a model's server can answer, and ask it for that many times as much."""
    target = measuring.target_of(state.address("http"), name, None)
    plan = LoadPlan(concurrency=8, duration_s=5.0, warmup_s=1.0)
    capacity = measuring.measure(target, plan, Extras(measure_ceiling=False)).requests_per_s
    with TritonClient(state.address("http")) as client:
        interface = client.interface(name)
        images = request_images(interface, 1, 0)
        alone_s = statistics.median(_timed(client, name, interface, images) for _ in range(30))
        before = peak = resident_mib(state.server_pid)
        task = LoadTask(
            protocol="http",
            host_port=target.address.host_port,
            requests=wire.requests(target, [images]),
            rate_per_s=capacity * factor,
            poisson=False,
        )
        with Generators([task]) as generators:
            generators.wait_until_ready()
            ended_ns = time.monotonic_ns() + int(seconds * 1e9)
            while time.monotonic_ns() < ended_ns:
                generators.watch(ended_ns)
                peak = max(peak, resident_mib(state.server_pid))
            records = generators.stop()
        while _timed(client, name, interface, images) > 2 * alone_s and _since(ended_ns) < _GIVE_UP_S:
            pass
    return Overload(
        capacity_per_s=capacity,
        rate_per_s=capacity * factor,
        seconds=seconds,
        samples=merge(records),
        alone_s=alone_s,
        recovery_s=_since(ended_ns),
        memory_mib=(before, peak),
    )


def _timed(client: TritonClient, name: str, interface: Interface, images: npt.NDArray[np.uint8]) -> float:
    """Return how long one request takes; inf if it is refused."""
    sent = time.perf_counter()
    try:
        client.infer(name, interface, images)
    except ServerBusy:  # its queue is not empty yet
        return float("inf")
    return time.perf_counter() - sent


def _since(moment_ns: int) -> float:
    return (time.monotonic_ns() - moment_ns) / 1e9


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g} ms"


if __name__ == "__main__":
    sys.exit(main())
