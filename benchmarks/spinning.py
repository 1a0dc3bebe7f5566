"""How long onnxruntime's idle threads should wait busily: a lone request, throughput and what idling costs.

    python benchmarks/spinning.py [--model resnet20] [--spins 0,100,200,300,endless] [--native] [--neighbors 2]
                                  [--rounds 5] [--seconds 4] [--server-cores 0,1] [--client-cores 2,3]

One server has the model loaded under a name for each duration (0 is never; `endless` is onnxruntime's own, many
milliseconds), and so several models that could disturb each other. Each round measures all durations in another order:
a closed loop of 1 and of 8, a loop of 8 while as many neighbors as are asked for get 2 requests in flight each, and
the processor time that the server takes. Ratios are to never, round by round. At the end the server idles: the
processor time that it takes then is what is left of spinning. Without --client-cores the client shares the server's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from resx.bench import measuring
from resx.bench.load.load_plan import LoadPlan
from resx.bench.measuring import Extras
from resx.bench.results.result import Measurement
from resx.bench.results.server_use import use_before
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.machine import processor, usable_cores
from resx.repository import config_pbtxt
from resx.repository.config_pbtxt import CONFIG_FILE, ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.embedded.backends.config_values import SPIN_DURATION, SPINNING
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop

ENDLESS = "endless"
_IDLE_S = 3.0
_COLUMNS = ("c1 p50 ms", "c8 /s", "c8 CPU ms", "c8 /s, busy neighbors")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Durations of onnxruntime's busy waiting.")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--spins", default="0,100,200,300,endless", help="microseconds, or endless; begins with 0")
    parser.add_argument("--native", action="store_true", help="`resx serve --native`")
    parser.add_argument("--neighbors", type=int, default=2, help="models that get requests in the last column")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--server-cores", default="", help="as taskset -c has them; default: all")
    parser.add_argument("--client-cores", default="", help="default: the server's")
    options = parser.parse_args()
    spins = options.spins.split(",")
    with tempfile.TemporaryDirectory(prefix="resx-bench-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        for spin in spins:
            _publish(repository, options.model, spin)
        every = os.sched_getaffinity(0)
        os.sched_setaffinity(0, _cores(options.server_cores) or every)  # the server inherits it
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--native"] if options.native else [])
        os.sched_setaffinity(0, _cores(options.client_cores) or _cores(options.server_cores) or every)
        try:
            rounds = [_round(state, spins, options, number) for number in range(options.rounds)]
            idle = _idle_share(state)
        finally:
            stop(repository)
    print(
        f"{options.model}, {'native' if options.native else 'isolated'}, {len(spins)} copies loaded, {processor()}, "
        f"{usable_cores()} cores for the client; medians of {len(rounds)} rounds, [ratio to {spins[0]}]"
    )
    _show(spins, rounds)
    print(f"idle, all loaded: {idle:.2%} of a core")
    return 0


def _cores(text: str) -> set[int]:
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _name(spin: str) -> str:
    return f"spin_{spin}"


def _publish(repository: Repository, model: str, spin: str) -> None:
    source = load_source(model, weights="none", seed=0)
    export_into(repository, source, ExportOptions(), ServingOptions(), name=_name(spin), command="a benchmark")
    path = repository.root / _name(spin) / CONFIG_FILE
    message = config_pbtxt.read(path)
    if spin == ENDLESS:
        message.parameters[SPINNING].string_value = "1"
    else:
        message.parameters[SPIN_DURATION].string_value = spin
    path.write_text(config_pbtxt.text(message))


def _round(state: ServerState, spins: list[str], options: argparse.Namespace, number: int) -> dict[str, list[float]]:
    order = random.Random(number).sample(spins, len(spins))
    found = {}
    for spin in order:
        alone, many = (_load(state, spin, concurrency, options.seconds) for concurrency in (1, 8))
        others = [other for other in spins if other != spin][: options.neighbors]
        with _busy(state, others, options.seconds):
            crowded = _load(state, spin, 8, options.seconds)
        cpu = many.server_use.cpu_ms_per_request if many.server_use else None
        found[spin] = [alone.p50_ms or 0.0, many.requests_per_s, cpu or 0.0, crowded.requests_per_s]
        print(f"round {number + 1}, {spin:>8}: {'  '.join(f'{value:9.3f}' for value in found[spin])}", flush=True)
    return found


def _load(state: ServerState, spin: str, concurrency: int, seconds: float) -> Measurement:
    target = measuring.target_of(state.address("http"), _name(spin), None)
    plan = LoadPlan(concurrency=concurrency, duration_s=seconds, warmup_s=0.5)
    return measuring.measure(target, plan, Extras(measure_ceiling=False))


@contextlib.contextmanager
def _busy(state: ServerState, spins: list[str], seconds: float) -> Iterator[None]:
    url = f"127.0.0.1:{state.http_port}"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "resx", "bench", _name(spin), "--url", url, "--concurrency", "2", "--no-check",
             "--duration", f"{seconds + 2:g}", "-q"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for spin in spins
    ]  # fmt: skip
    try:
        time.sleep(1.5 if running else 0)
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _idle_share(state: ServerState) -> float:
    before = use_before(state.address("http"))
    time.sleep(_IDLE_S)
    return before.cpu_since() / _IDLE_S


def _show(spins: list[str], rounds: list[dict[str, list[float]]]) -> None:
    print(f"{'spin us':>8}  " + "  ".join(f"{column:>24}" for column in _COLUMNS))
    for spin in spins:
        cells = []
        for place in range(len(_COLUMNS)):
            value = statistics.median(found[spin][place] for found in rounds)
            ratio = statistics.median(found[spin][place] / (found[spins[0]][place] or 1.0) for found in rounds)
            cells.append(f"{value:.3f} [{ratio:.2f}]")
        print(f"{spin:>8}  " + "  ".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
