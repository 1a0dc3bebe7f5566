"""Is `resx bench` right, and what does serving cost? Each claim beside the measurement that it rests on.

    python benchmarks/load_checks.py [--model resnet20] [--instances 2] [--threads 1] [--max-batch 4]
                                     [--native] [--rounds 3] [--seconds 6] [--only stall,poisson]

stall       the server is stopped (SIGSTOP) for a second in the middle of an open loop. Of the requests that fall due in
            that second each waits for the rest of it, so of a window of D seconds p99 is 1 s - D / 100 and more.
loadgen     MLPerf's LoadGen, Server scenario, and an open loop of the same Poisson rate, in turns: their p99.
added       the median of single requests, one at a time, less that of the file in process with the same threads.
poisson     the highest Poisson rate whose p99 is within 15 times a single request's median, as MLPerf's 15 ms are, as a
            share of the closed loop's rate, which is measured right before and after. Beside it what queueing leaves of
            it, by the simulation that `resx plan` uses: with the service times that were measured, and with ones that
            are always their mean and nothing between them. The bar is for a network whose run outweighs the machine's
            hiccups (p99 of single requests within twice their median), such as resnet50 with 1 x all threads; of a
            network of half a millisecond the rate shows the machine's noise, and is reported without a bar.
client      processor time of the load generator for a request, closed loop of 8 and open loop.

The default is what `resx tune resnet20 --objective throughput` finds on 2 cores. Client and server share the machine.
Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resx.bench import loadgen, measuring
from resx.bench.capacity.capacity_plan import Question, plan_replicas
from resx.bench.capacity.service_times import batching_of, measure_now, service_times
from resx.bench.in_process import measure_in_process
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import canaries
from resx.bench.load.scenario_plan import ScenarioPlan
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras
from resx.bench.results.result import Measurement
from resx.bench.tuning.highest_rate import Slo, search
from resx.cli.steps.bench_run import LOADGEN_CONNECTIONS
from resx.errors import ResxError
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop

CHECKS = ("stall", "loadgen", "added", "poisson", "client")
STALL_S = 1.0
SHARE = 0.4
"""Of the closed loop of 8: the rate of the open loops."""
LOADGEN_S = 10.0
SMALL_PIXELS = 64
POISSON_BAR, POISSON_TIMES = 0.75, 15.0
"""The share of the closed loop's rate, and p99 in times of a single request."""
HICCUPS = 2.0
"""Most that p99 of single requests may be, in times of their median, for the bar to say something of the server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A served model and how long to load it."""

    repository: Repository
    state: ServerState
    target: Target
    rounds: int
    seconds: float

    def load(
        self, *, concurrency: int = 0, rate_per_s: float = 0.0, seed: int = 0, seconds: float = 0.0
    ) -> Measurement:
        """Run one load, for `seconds` if that is not 0."""
        plan = LoadPlan(
            concurrency=concurrency, rate_per_s=rate_per_s, duration_s=seconds or self.seconds, warmup_s=1.0, seed=seed
        )
        return measuring.measure(self.target, plan, Extras(measure_ceiling=False))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Checks of the benchmark and of what serving costs.")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of an instance; 0: all cores")
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--native", action="store_true", help="`resx serve --native`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", default=",".join(CHECKS), help=f"of {','.join(CHECKS)}")
    options = parser.parse_args()
    if unknown := [name for name in options.only.split(",") if name not in CHECKS]:
        parser.error(f"--only {','.join(unknown)}: give some of {','.join(CHECKS)}")
    with tempfile.TemporaryDirectory(prefix="resx-checks-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        serving = ServingOptions(instances=options.instances, threads=options.threads)
        export = ExportOptions(max_batch_size=options.max_batch)
        source = load_source(options.model, weights="none", seed=0)
        export_into(repository, source, export, serving, name=options.model, command="load_checks")
        native = ["--native"] if options.native else []
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0), native)
        try:
            target = measuring.target_of(state.address("http"), options.model, None)
            bench = Bench(
                repository=repository, state=state, target=target, rounds=options.rounds, seconds=options.seconds
            )
            missed = _check(bench, options.only.split(","), Path(folder) / "loadgen")
        finally:
            stop(repository)
    print("all bars hold" if not missed else f"MISSED: {', '.join(missed)}")
    return 1 if missed else 0


def _check(bench: Bench, names: list[str], logs: Path) -> list[str]:
    closed = bench.load(concurrency=8)
    rate = round(SHARE * closed.requests_per_s, 1)
    print(f"{bench.target.model}: closed loop of 8 {closed.images_per_s:.1f}/s; open loops of {rate:g}/s", flush=True)
    checks: dict[str, Callable[[], bool]] = {
        "stall": lambda: _stall(bench, rate),
        "loadgen": lambda: _loadgen(bench, rate, logs),
        "added": lambda: _added(bench),
        "poisson": lambda: _poisson(bench),
        "client": lambda: _client(bench, closed, rate),
    }
    return [name for name in names if not checks[name]()]


def _stall(bench: Bench, rate: float) -> bool:
    server, timers = bench.state.server_pid, list[threading.Timer]()
    moments = ((0.5, signal.SIGSTOP), (0.5 + STALL_S / bench.seconds, signal.SIGCONT))
    for share, number in moments:
        send: Callable[..., None] = os.kill
        timers.append(threading.Timer(1.5 + share * bench.seconds, send, (server, number)))
    for timer in timers:
        timer.start()
    try:
        measured = bench.load(rate_per_s=rate)
    finally:
        for timer in timers:
            timer.cancel()
        os.kill(server, signal.SIGCONT)
    assert measured.late is not None
    if measured.p99_ms is None or measured.max_ms is None:
        print(f"stall: {measured.sent} requests, too few for p99; give --seconds more")
        return False
    expected_ms = 1e3 * (STALL_S - bench.seconds / 100)
    holds = measured.p99_ms >= 0.95 * expected_ms and measured.max_ms >= 0.95e3 * STALL_S
    print(
        f"stall: p99 {measured.p99_ms:.0f} ms (at least {expected_ms:.0f}), max {measured.max_ms:.0f} ms, service p99 "
        f"{measured.service.p99_ms or 0:.0f} ms; {measured.requests_per_s:.1f}/s answered, "
        f"{measured.late.share:.1%} left late",
        flush=True,
    )
    return holds


def _loadgen(bench: Bench, rate: float, logs: Path) -> bool:
    payloads = canaries(bench.repository.card(bench.target.model), 1)
    ours, theirs = list[float](), list[float]()
    for number in range(bench.rounds):
        for who in ("resx", "loadgen") if number % 2 else ("loadgen", "resx"):
            if who == "resx":
                measured = bench.load(rate_per_s=rate, seed=number, seconds=LOADGEN_S)
                ours += [measured.p99_ms] if measured.p99_ms is not None else []
            else:
                plan = ScenarioPlan(
                    scenario="Server",
                    duration_s=LOADGEN_S,
                    rate_per_s=rate,
                    latency_bound_ms=10_000.0,
                    connections=LOADGEN_CONNECTIONS,
                    log_folder=logs,
                    seed=number,
                )
                result = loadgen.run_scenario(bench.target, plan, payloads)
                theirs.append(result.p99_ms)
    if not ours:
        print("loadgen: too few requests for p99; give a faster model")
        return False
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"loadgen: p99 {_spread(ours)} ms, LoadGen's {_spread(theirs)} ms, of {len(ours)} rounds each: "
        f"at {rate:g}/s {ratio:.2f} (bar 0.90 to 1.10)",
        flush=True,
    )
    return 0.9 <= ratio <= 1.1


def _added(bench: Bench) -> bool:
    name, added = bench.target.model, list[float]()
    folder, card = bench.repository.version_folder(name), bench.repository.card(name)
    tensors = canaries(card, 1).tensors
    for _ in range(bench.rounds):
        served = bench.load(concurrency=1)
        alone = measure_in_process(
            folder, card, 1, instances=1, threads=0, duration_s=bench.seconds, tensors=tensors
        ).p50_ms
        assert served.p50_ms is not None
        added.append(served.p50_ms - alone)
    bar = 1.0 if _is_small(bench) else 2.0
    median = statistics.median(added)
    print(f"added: p50 {_spread(added)} ms above in process, {bench.rounds} rounds (bar {bar:g} ms)", flush=True)
    return median <= bar


def _poisson(bench: Bench) -> bool:
    single, tail = _single(bench)
    plan = LoadPlan(concurrency=1, duration_s=bench.seconds, warmup_s=0.5)
    bound = Slo(percent=99, bound_ms=POISSON_TIMES * single)
    found = search(bench.target, bound, plan, Extras(measure_ceiling=False))
    share = (found.rate_per_s or 0.0) / found.closed_loop_per_s
    has_bar = tail <= HICCUPS * single
    print(
        f"poisson: {found.rate_per_s or 0:.1f}/s with {bound}, the closed loop {found.capacity_per_s:.1f}/s before and "
        f"{found.capacity_after_per_s:.1f}/s after ({found.wandered or 0:+.0%}): {share:.2f} "
        f"({f'bar {POISSON_BAR:.2f}' if has_bar else 'no bar'}: p99 of single requests is {tail / single:.1f} times "
        f"their median of {single:.2f} ms); {_left_by_queueing(bench, bound, found.closed_loop_per_s)}"
        f"{f'; no rate: {found.why}' if found.why else ''}",
        flush=True,
    )
    return share >= POISSON_BAR or not has_bar


def _single(bench: Bench) -> tuple[float, float]:
    """Return median and p99 of single requests, measured for long enough."""
    rough = bench.load(concurrency=1, seconds=2.0)
    least_s = Slo(percent=99, bound_ms=1.0).least_s(rough.requests_per_s)
    measured = bench.load(concurrency=1, seconds=max(bench.seconds, 1.2 * least_s))
    assert measured.p50_ms is not None
    return measured.p50_ms, measured.p99_ms or measured.max_ms or measured.p50_ms


def _left_by_queueing(bench: Bench, bound: Slo, closed_per_s: float) -> str:
    """Say which share of the closed loop's rate a simulated queue could have under the bound."""
    with TritonClient(bench.state.address("http")) as client:
        batching = batching_of(client.config(bench.target.model))
    result = measure_now(bench.target, batching, duration_s=bench.seconds, seed=0)
    times = service_times(result, bench.target.model, batching)
    constant = times.model_copy(update={"rested": 1.0, "shape": (1.0,), "turnaround_ms": (0.0,)})
    found = list[str]()
    for words, of in (("a queue with the measured service times", times), ("with constant ones", constant)):
        try:
            question = Question(rate_per_s=closed_per_s / 100, slo=bound)
            found.append(f"{words} {plan_replicas(of, batching, question).highest_rate_per_s / closed_per_s:.2f}")
        except ResxError as error:
            found.append(f"{words}: {error}")
    return ", ".join(found)


def _client(bench: Bench, closed: Measurement, rate: float) -> bool:
    opened = bench.load(rate_per_s=rate)
    costs = [load.client_cpu_ms_per_request or 0.0 for load in (closed, opened)]
    small = _is_small(bench)
    bar = "bar 0.15" if small else "no bar: it grows with the request"
    print(f"client: {costs[0]:.3f} ms a request in the closed loop, {costs[1]:.3f} in the open one ({bar})")
    return not small or max(costs) <= 0.15


def _is_small(bench: Bench) -> bool:
    return bench.repository.card(bench.target.model).signature.input_dims[-1] <= SMALL_PIXELS


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
