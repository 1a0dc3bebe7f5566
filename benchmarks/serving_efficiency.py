"""Served against in-process throughput of one ONNX file, same instances and threads, interleaved in one run.

    python benchmarks/serving_efficiency.py [--model resnet50] [--instances 1] [--threads 0] [--max-batch 8] [--native]
                                            [--runtime openvino] [--precision fp32|bf16|int8] [--concurrency 8]
                                            [--rounds 5] [--seconds 8] [--bar 0.90]

In process: the served runtime, opened for each instance, each one largest batch after the other. Served: the embedded
Triton, 8 requests of one image in flight over HTTP, the client on the same cores. Each round measures both, in turns of
order, so that a machine whose speed drifts does not favour one; the ratio is taken round by round. Exit code 1 if the
median is below the bar.

What a lone request loses is `--concurrency 1 --max-batch 1`: as many images a second as in process is as long for each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from resx.bench import measuring
from resx.bench.in_process import measure_in_process
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import canaries
from resx.bench.measuring import Extras
from resx.bench.results.result import Measurement
from resx.card.kinds import Precision
from resx.card.runtime import RUNTIMES, RuntimeName
from resx.data.photographs import photograph_crops
from resx.export.int8.calibration import Calibration
from resx.export.int8.int8_file import Int8Options
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.machine import usable_cores
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop


def main() -> int:
    """Measure, print the rounds and the ratio, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description="Served against in-process throughput.")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of an instance; 0: all cores")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--native", action="store_true", help="`resx serve --native`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--bar", type=float, default=0.90, help="least served / in-process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-bench-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        source = load_source(options.model, weights="none", seed=0)
        export = _export(options.runtime, options.precision, options.max_batch)
        serving = ServingOptions(instances=options.instances, threads=options.threads)
        export_into(repository, source, export, serving, name=options.model, command="make bench")
        native = ["--native"] if options.native else []
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0), native)
        try:
            ratios = _rounds(repository, state, options.model, options.rounds, options.seconds, options.concurrency)
        finally:
            stop(repository)
    median = statistics.median(ratios)
    holds = median >= options.bar
    print(
        f"{options.model} {options.precision}, {options.runtime}{', native' if options.native else ''}, "
        f"{options.instances} x {options.threads or 'all'} threads, batches of {options.max_batch}: "
        f"served (concurrency {options.concurrency}) / in-process, "
        f"{usable_cores()} cores: median {median:.3f}, {min(ratios):.3f} to {max(ratios):.3f} "
        f"over {len(ratios)} rounds; bar {options.bar:.2f} {'holds' if holds else 'MISSED'}"
    )
    return 0 if holds else 1


def _export(runtime: RuntimeName, precision: Precision, max_batch_size: int) -> ExportOptions:
    """Return what is exported; int8 of random weights misses parity, and speed does not depend on the weights."""
    if precision != "int8":
        return ExportOptions(runtime=runtime, precision=precision, max_batch_size=max_batch_size)
    images = Calibration(images=photograph_crops(48, 224, seed=1), origin="photographs")
    int8 = Int8Options(calibration=images, method="minmax")
    return ExportOptions(runtime=runtime, precision=precision, max_batch_size=max_batch_size, int8=int8, verify=False)


def _rounds(
    repository: Repository, state: ServerState, name: str, rounds: int, seconds: float, concurrency: int
) -> list[float]:
    print(f"{'round':>5} {'in-process/s':>13} {'served/s':>9} {'ratio':>6} {'mean batch':>11} {'client ms':>10}")
    ratios = []
    for number in range(1, rounds + 1):
        # Every other round begins with the other one.
        if number % 2:
            direct, served = _in_process(repository, name, seconds), _served(state, name, seconds, concurrency)
        else:
            served, direct = _served(state, name, seconds, concurrency), _in_process(repository, name, seconds)
        ratios.append(served.images_per_s / direct)
        mean_batch = served.server.mean_batch_size if served.server else float("nan")
        print(
            f"{number:>5} {direct:>13.1f} {served.images_per_s:>9.1f} {ratios[-1]:>6.3f} {mean_batch:>11.1f} "
            f"{served.client_cpu_ms_per_request or 0:>10.3f}",
            flush=True,
        )
    return ratios


def _in_process(repository: Repository, name: str, seconds: float) -> float:
    """Return images per second."""
    card = repository.card(name)
    batches = canaries(card, card.max_batch_size).tensors
    run = measure_in_process(
        repository.version_folder(name),
        card,
        card.max_batch_size,
        instances=0,
        threads=0,
        duration_s=seconds,
        tensors=batches,
    )
    return run.images_per_s


def _served(state: ServerState, name: str, seconds: float, concurrency: int) -> Measurement:
    plan = LoadPlan(concurrency=concurrency, duration_s=seconds, warmup_s=1.5)
    target = measuring.target_of(state.address("http"), name, None)
    return measuring.measure(target, plan, Extras(measure_ceiling=False))


if __name__ == "__main__":
    sys.exit(main())
