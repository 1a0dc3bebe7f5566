"""Served against in-process throughput of one ONNX file, same threads, interleaved in one run.

    python benchmarks/serving_efficiency.py [--model resnet50] [--rounds 5] [--seconds 8]

In process: batches of 8, one after another. Served: the embedded Triton, 8 requests of one image in flight,
the client on the same cores. Each round measures both, in turns of order, so that a machine whose speed
drifts does not favour one; the ratio is taken round by round. Exit code 1 if the median is below the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from resx.bench import measuring
from resx.bench.plan import LoadPlan
from resx.bench.report import Measurement
from resx.export.pipeline import ExportOptions
from resx.export.runtimes import OnnxRuntimeModel, usable_cores
from resx.export.source import load_source
from resx.serving.embedded import Ports
from resx.serving.publishing import export_into
from resx.serving.repository import Repository
from resx.serving.supervisor import ServerState, serve_detached, stop
from resx.serving.triton_config import ServingOptions

CONCURRENCY = 8


def main() -> int:
    """Measure, print the rounds and the ratio, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description="Served against in-process throughput.")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--bar", type=float, default=0.90, help="least served / in-process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-bench-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        source = load_source(options.model, weights="none", seed=0)
        export = ExportOptions(max_batch_size=CONCURRENCY)
        export_into(repository, source, export, ServingOptions(), name=options.model, command="make bench")
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
        try:
            ratios = _rounds(repository, state, options.model, options.rounds, options.seconds)
        finally:
            stop(repository)
    median = statistics.median(ratios)
    holds = median >= options.bar
    print(
        f"{options.model}: served (concurrency {CONCURRENCY}) / in-process (batch {CONCURRENCY}), "
        f"{usable_cores()} cores: median {median:.3f}, {min(ratios):.3f} to {max(ratios):.3f} "
        f"over {len(ratios)} rounds; bar {options.bar:.2f} {'holds' if holds else 'MISSED'}"
    )
    return 0 if holds else 1


def _rounds(repository: Repository, state: ServerState, name: str, rounds: int, seconds: float) -> list[float]:
    model = OnnxRuntimeModel(repository.version_folder(name) / "model.onnx")
    image_size = repository.card(name).source.spec.image_size
    batch = np.random.default_rng(0).integers(0, 256, (CONCURRENCY, 3, image_size, image_size), dtype=np.uint8)
    print(f"{'round':>5} {'in-process/s':>13} {'served/s':>9} {'ratio':>6} {'mean batch':>11} {'client ms':>10}")
    ratios = []
    for number in range(1, rounds + 1):
        # Every other round begins with the other one.
        if number % 2:
            direct, served = _in_process(model, batch, seconds), _served(state, name, seconds)
        else:
            served, direct = _served(state, name, seconds), _in_process(model, batch, seconds)
        ratios.append(served.images_per_s / direct)
        mean_batch = served.server.mean_batch_size if served.server else float("nan")
        print(
            f"{number:>5} {direct:>13.1f} {served.images_per_s:>9.1f} {ratios[-1]:>6.3f} {mean_batch:>11.1f} "
            f"{served.client_cpu_ms_per_request or 0:>10.2f}",
            flush=True,
        )
    return ratios


def _in_process(model: OnnxRuntimeModel, batch: np.ndarray, seconds: float) -> float:
    """Return images per second."""
    model(batch)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        model(batch)
        count += len(batch)
    return count / (time.perf_counter() - started)


def _served(state: ServerState, name: str, seconds: float) -> Measurement:
    plan = LoadPlan(concurrency=CONCURRENCY, duration_s=seconds, warmup_s=1.5)
    return measuring.run(state.address("grpc"), name, [plan]).measurements[0]


if __name__ == "__main__":
    sys.exit(main())
