"""What `resx plan` predicts for one server, against the same server under that load.

    python benchmarks/plan_check.py [--model resnet20] [--instances 1] [--threads 1] [--seconds 8] [--rounds 5]
                                    [--bar 0.2]

Open loops of Poisson arrivals at 30, 60 and 80 % of the capacity are simulated and run. Before each of them the
service times are measured in closed loops, because the machine's speed drifts; `times` is what batches took during
the load over what was measured before it. The loads alternate over the rounds; what counts is each one's median ratio,
since a p99 near saturation differs by a factor of two from one run to the next. The load generator shares the machine,
so the server gets one thread, which leaves it a core of two. Exit code 1 if a median is off by more than the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from resx.bench import measuring
from resx.bench.capacity.capacity_plan import Question, estimate
from resx.bench.capacity.service_times import batching_of, measure_now, service_times
from resx.bench.capacity.simulation import Batching
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras
from resx.bench.tuning.highest_rate import parse_slo
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor.detaching import serve_detached, stop

SHARES = (0.3, 0.6, 0.8)
_HEADER = " load  rate/s       predicted  measured  ratio    mean batch   times   late"


def main() -> int:
    """Measure, predict, run, and print the table."""
    parser = argparse.ArgumentParser(description="Predictions of `resx plan` against real loads.")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of an instance; 0: all cores")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bar", type=float, default=0.2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-plan-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        serving = ServingOptions(instances=options.instances, threads=options.threads)
        source = load_source(options.model, weights="none", seed=0)
        export_into(repository, source, ExportOptions(), serving, name=options.model, command="plan_check")
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
        try:
            target = measuring.target_of(state.address("http"), options.model, None)
            with TritonClient(target.address) as client:
                batching = batching_of(client.config(target.model))
            print(_HEADER)
            ratios: dict[tuple[float, str], list[float]] = {}
            for number in range(options.rounds):
                for share in SHARES:
                    for name, ratio in _compared(target, batching, share, options.seconds, seed=number):
                        ratios.setdefault((share, name), []).append(ratio)
        finally:
            stop(repository)
    print(f"{options.model}, predicted / measured over {options.rounds} rounds:")
    for (share, name), found in sorted(ratios.items()):
        print(f"{share:>5.0%} {name}: median {statistics.median(found):.2f}, {min(found):.2f} to {max(found):.2f}")
    worst = max(abs(statistics.median(found) - 1) for found in ratios.values())
    print(
        f"{options.model}, {options.instances} x {options.threads} threads: "
        f"largest difference of a median {worst:.0%}; "
        f"bar {options.bar:.0%} {'holds' if worst <= options.bar else 'MISSED'}"
    )
    return 0 if worst <= options.bar else 1


def _compared(
    target: Target, batching: Batching, share: float, seconds: float, seed: int
) -> Iterator[tuple[str, float]]:
    """Predict and run one load, print its two rows; give what was predicted relative to what was measured."""
    times = service_times(measure_now(target, batching, duration_s=1.5, seed=seed), target.model, batching)
    rate = round(share * times.service().capacity_per_s(batching))
    found = estimate(times, batching, Question(rate_per_s=rate, slo=parse_slo("p99=1s")), 1, rate)
    plan = LoadPlan(rate_per_s=rate, duration_s=seconds, warmup_s=1.0, seed=100 + seed)
    measured = measuring.measure(target, plan, Extras(measure_ceiling=False))
    assert measured.server is not None
    assert measured.late is not None
    server = measured.server
    took = sum(count * server.batch_compute_ms[size] for size, count in server.batches.items())
    predicted_ms = sum(count * times.mean_ms[size - 1] for size, count in server.batches.items())
    for name, predicted, seen in (("p50", found.p50_ms, measured.p50_ms), ("p99", found.p99_ms, measured.p99_ms)):
        assert predicted is not None
        assert seen is not None
        ratio = predicted.mean / seen
        print(
            f"{share:>5.0%} {rate:>7} {name:>4} {predicted.mean:>10.2f} {seen:>9.2f} {ratio:>6.2f} "
            f"{found.mean_batch_size:>5.2f} / {server.mean_batch_size:>5.2f} {took / predicted_ms:>6.2f} "
            f"{measured.late.share:>6.1%}",
            flush=True,
        )
        yield name, ratio


if __name__ == "__main__":
    sys.exit(main())
