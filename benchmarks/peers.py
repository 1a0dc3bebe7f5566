"""The same ONNX file behind the embedded Triton, FastAPI, LitServe and Ray Serve, under the same load.

    make bench-peers
    python benchmarks/peers.py [--models resnet20,resnet50,resnet50:int8]
                               [--servers triton,triton_isolated,fastapi,litserve,in_process]
                               [--rounds 5] [--seconds 8] [--concurrency 8] [--tune] [-o docs/benchmarks.md]

One server runs at a time, on all cores, with the client on the same ones. In each round every server is started,
driven by resx's generator and by wrk (where it is installed), and stopped; the order rotates from round to round, and
ratios are taken within a round, so that a machine whose speed drifts favours nobody. Requests of Triton have its
protocol's head, the others are a plain POST of the image's bytes. `triton` is `resx serve --native`, the one that the
ratios are of; `triton_isolated` is `resx serve`. A window of a slow model is longer than `--seconds`, so that it holds
some hundred answers: wrk starts cold and does not count what is on its way at its end. With `--tune` Triton's
configuration is first found by `resx tune` under the same concurrency. `in_process` is no server: the file that
Triton has, in as many sessions with as many threads, one full batch after the other, which is what a server could give
at most. MODEL:int8 lets Triton serve the int8 file that
`resx export --int8` makes, and the others the fp32 file. Weights are random, and their answers do not survive rounding,
so that file is made with --no-verify: what it gives is its speed. Answers are compared with onnxruntime in process,
over the file that the server has. Exit code 1 if a server gave a wrong answer or none.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path

import numpy as np

from resx.bench.in_process import measure_in_process
from resx.bench.load import wire
from resx.bench.load.generator import Generators
from resx.bench.load.load_task import LoadTask
from resx.bench.load.payloads import canaries
from resx.bench.load.request_times import Records
from resx.bench.load.wire import Target
from resx.bench.measuring import target_of
from resx.bench.results.result import environment
from resx.bench.results.samples import merge, percentiles
from resx.cli.views.tuning import setting_text
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.machine import usable_cores
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.embedded.backend_session import served_config
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor.detaching import serve_detached, stop

HERE = Path(__file__).parent / "peers"
NAMES = {
    "triton": "Triton, `resx serve --native`",
    "triton_isolated": "Triton, `resx serve`",
    "fastapi": "FastAPI",
    "litserve": "LitServe",
    "ray_serve": "Ray Serve",
    "in_process": "no server: onnxruntime as Triton's is configured",
}
WARMUP_S = 1.5
CHECKED = 32
LEAST_ANSWERS = 250
"""In each of a run's four windows, at the speed of a single image in process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A server that answers."""

    host_port: str
    requests: tuple[bytes, ...]
    triton: Target | None
    """Whose answers have Triton's form; None: they are the logits' bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One server in one round."""

    images_per_s: float
    p50_ms: float | None
    """None: of the runs without a server, which time batches."""
    p99_ms: float | None
    failed: int
    wrong: int
    checked: int
    wrk_per_s: float | None
    """None where wrk is not installed."""
    wrk_p50_ms: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Load:
    """What resx's generator saw, and the window that counts."""

    records: list[Records]
    opened_ns: int
    closed_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model, and what is asked of it."""

    name: str
    repository: Repository
    plain: Path
    """The fp32 file, which the peers serve."""
    images: tuple[np.ndarray, ...]
    """Each [1, 3, H, W]."""
    expected: tuple[np.ndarray, ...]
    """onnxruntime's logits of Triton's file, in this process."""
    expected_plain: tuple[np.ndarray, ...]
    """Those of the fp32 file."""
    tolerance: float
    window_s: int
    """Of each of a run's four loads."""


def main() -> int:
    """Measure, print, and write the page."""
    options = _options()
    servers, failures, settings = options.servers.split(","), 0, dict[str, str]()
    wrk = shutil.which("wrk")
    if wrk is None:
        print("wrk is not installed (apt install wrk): its columns stay empty")
    _require_environments(servers, options.environments)
    sections = []
    with tempfile.TemporaryDirectory(prefix="resx-peers-") as folder:
        for asked in options.models.split(","):
            repository = Repository(options.repository or Path(folder) / "model_repository")
            name = _published(asked, repository)
            if options.tune and "triton" in servers:
                settings[name] = _tuned(name, repository, options.concurrency)
            case = _case(name, repository, options.seconds / 4)
            runs: dict[str, list[Run]] = {server: [] for server in servers}
            for number in range(options.rounds):
                for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                    if server == "in_process":
                        runs[server].append(_in_process(case))
                    else:
                        with _running(server, case, options, Path(folder)) as running:
                            runs[server].append(_measured(running, case, options, wrk, Path(folder)))
                    print(f"{name} round {number + 1} {server}: {runs[server][-1]}", flush=True)
            sections.append(_section(name, runs))
            failures += sum(run.wrong + run.failed + (not run.checked) for found in runs.values() for run in found)
    page = _page(options, sections, wrk, settings)
    print(page)
    if options.output:
        options.output.write_text(page)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The same ONNX file behind four servers, under the same load.")
    parser.add_argument("--models", default="resnet20,resnet50,resnet50:int8")
    parser.add_argument(
        "--servers", default="triton,triton_isolated,fastapi,litserve,in_process", help=f"of {','.join(NAMES)}"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--spinning", choices=("on", "off"), default="off", help="of the peers' onnxruntime threads")
    parser.add_argument("--tune", action="store_true", help="let `resx tune` find Triton's configuration first")
    parser.add_argument("--repository", type=Path, help="take the models and their configuration from there")
    parser.add_argument("--environments", type=Path, default=Path(".peers"), help="where `make bench-peers` put them")
    parser.add_argument("-o", "--output", type=Path, help="write the page here")
    found = parser.parse_args()
    if unknown := [name for name in found.servers.split(",") if name not in NAMES]:
        parser.error(f"--servers {','.join(unknown)}: give some of {','.join(NAMES)}")
    if found.rounds < 1 or found.seconds <= 0 or found.concurrency < 1:
        parser.error("give --rounds and --concurrency of 1 or more, and --seconds above 0")
    return found


def _require_environments(servers: list[str], folder: Path) -> None:
    missing = [name for name in filter(_is_peer, servers) if not (folder / name / "bin" / "python").exists()]
    if missing:
        raise SystemExit(f"{folder}: no environment of {', '.join(missing)}; `make bench-peers` makes them")


def _is_triton(server: str) -> bool:
    return server.startswith("triton")


def _is_peer(server: str) -> bool:
    return not _is_triton(server) and server != "in_process"


def _published(asked: str, repository: Repository) -> str:
    """See that MODEL or MODEL:int8 is in the repository, its fp32 file as version 1; return its name there."""
    model, _, precision = asked.partition(":")
    name = f"{model}-{precision}" if precision else model
    if name in repository.names():
        return name
    source = load_source(model, weights="none", seed=0)
    export_into(repository, source, ExportOptions(max_batch_size=8), ServingOptions(), name=name, command="peers")
    if precision:
        options = [f"--{precision}", "--calibrate=random", "--no-verify", f"--name={name}", "-q"]
        command = [sys.executable, "-m", "resx", "export", model, "--weights=none", *options]
        subprocess.run([*command, f"--repository={repository.root}"], check=True, stdout=sys.stderr)
    return name


def _case(name: str, repository: Repository, least_s: float) -> Case:
    card, folder = repository.card(name), repository.version_folder(name)
    payloads = canaries(card, 1)
    plain = repository.version_folder(name, 1).absolute() / repository.card(name, 1).model_file
    served, unquantised = (OnnxRuntimeModel(path) for path in (folder / card.model_file, plain))
    expected = tuple(map(served, payloads.tensors))
    started = time.perf_counter()
    expected_plain = tuple(map(unquantised, payloads.tensors))
    image_s = (time.perf_counter() - started) / len(expected_plain)
    return Case(
        name=name,
        repository=repository,
        plain=plain,
        images=payloads.tensors,
        tolerance=payloads.tolerance,
        expected=expected,
        expected_plain=expected_plain,
        window_s=math.ceil(max(least_s, LEAST_ANSWERS * image_s)),
    )


def _tuned(name: str, repository: Repository, concurrency: int) -> str:
    """Run `resx tune` and say what it chose."""
    state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--native"])
    command = ["-m", "resx", "tune", name, f"--repository={repository.root}", f"--concurrency={concurrency}"]
    try:
        subprocess.run([sys.executable, *command, f"--url={state.address('http')}"], check=True)
    finally:
        stop(repository)
    tuning = repository.card(name).tuning
    return setting_text(tuning.chosen) if tuning else "none better than its own"


@contextmanager
def _running(server: str, case: Case, options: argparse.Namespace, folder: Path) -> Iterator[Running]:
    """Run one server, and none when this ends; a peer's home is the folder, as Ray writes a token into it."""
    if _is_triton(server):
        native = ["--native"] if server == "triton" else []
        state = serve_detached(case.repository, Ports(http=0, grpc=0, metrics=0), native)
        try:
            target = target_of(state.address("http"), case.name, None)
            yield Running(
                host_port=target.address.host_port, requests=wire.requests(target, case.images), triton=target
            )
        finally:
            stop(case.repository)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = options.environments.absolute() / server / "bin" / "python"
    command = [python, HERE.absolute() / f"{server}_server.py", case.plain, str(port), "--spinning", options.spinning]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HOME": str(folder), "RAY_TMPDIR": str(folder)}
    process = subprocess.Popen(list(map(str, command)), start_new_session=True, env=environment)
    try:
        _wait_until_healthy(server, process, port)
        host_port = f"127.0.0.1:{port}"
        yield Running(
            host_port=host_port, requests=tuple(_post(host_port, image) for image in case.images), triton=None
        )
    finally:
        _end(process)


def _post(host_port: str, image: np.ndarray) -> bytes:
    body = image.tobytes()
    head = f"POST /predict HTTP/1.1\r\nHost: {host_port}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + body


def _wait_until_healthy(server: str, process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{server}: ended with {process.returncode} before it answered")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{server}: does not answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started: all in the session that was made for it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _measured(running: Running, case: Case, options: argparse.Namespace, wrk: str | None, folder: Path) -> Run:
    """Load the server twice by resx's generator and twice by wrk, in the order ABBA."""
    loads, by_wrk = list[_Load](), list[tuple[float, float]]()
    for who in "resx", "wrk", "wrk", "resx":
        if who == "resx":
            loads.append(_by_resx(running, options.concurrency, case.window_s))
        elif wrk:
            by_wrk.append(_by_wrk(wrk, running, options.concurrency, case.window_s, folder))
    samples = merge([record for load in loads for record in load.records])
    inside = [(samples.done_ns >= load.opened_ns) & (samples.done_ns < load.closed_ns) for load in loads]
    samples = samples.where(np.logical_or.reduce(inside))
    latency = percentiles(samples.answered.latencies_ms)
    kept = [answer for load in loads for record in load.records for answer in record.answers]
    kept = kept[:: max(1, len(kept) // CHECKED)]
    wrong = sum(not _is_right(running, case, payload, answer) for _, payload, answer in kept)
    seconds = sum(load.closed_ns - load.opened_ns for load in loads) / 1e9
    return Run(
        images_per_s=len(samples.answered) / seconds,
        p50_ms=latency.p50_ms,
        p99_ms=latency.p99_ms,
        failed=len(samples) - len(samples.answered),
        wrong=wrong,
        checked=len(kept),
        wrk_per_s=statistics.mean(per_s for per_s, _ in by_wrk) if by_wrk else None,
        wrk_p50_ms=statistics.mean(p50_ms for _, p50_ms in by_wrk) if by_wrk else None,
    )


def _in_process(case: Case) -> Run:
    """Compute as the server is configured to, in full batches and without a server."""
    folder, card = case.repository.version_folder(case.name), case.repository.card(case.name)
    size = int(served_config(folder.parent).get("max_batch_size") or 1)

    def batches(rows: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        return [np.concatenate((rows[first:] + rows[:first]) * size)[:size] for first in range(len(rows))]

    found = measure_in_process(
        folder, card, size, instances=0, threads=0, duration_s=2 * case.window_s, tensors=batches(case.images)
    )
    expected = batches(case.expected)
    wrong = sum(not _close(*pair, case.tolerance) for pair in zip(found.logits, expected, strict=True))
    return Run(
        images_per_s=found.images_per_s,
        p50_ms=None,
        p99_ms=None,
        failed=0,
        wrong=wrong,
        checked=len(expected),
        wrk_per_s=None,
        wrk_p50_ms=None,
    )


def _by_resx(running: Running, concurrency: int, seconds: float) -> _Load:
    task = LoadTask(protocol="http", host_port=running.host_port, requests=running.requests, concurrency=concurrency)
    with Generators([task]) as generators:
        generators.wait_until_ready()
        _pass(generators, WARMUP_S)
        opened_ns = time.monotonic_ns()
        _pass(generators, seconds)
        closed_ns = time.monotonic_ns()
        return _Load(records=generators.stop(), opened_ns=opened_ns, closed_ns=closed_ns)


def _pass(generators: Generators, seconds: float) -> None:
    until = time.monotonic_ns() + int(seconds * 1e9)
    while time.monotonic_ns() < until:
        generators.watch(until)


def _is_right(running: Running, case: Case, payload: int, answer: bytes) -> bool:
    expected = (case.expected if running.triton else case.expected_plain)[payload]
    if running.triton is not None:
        logits = wire.logits_of(running.triton, answer, 1)
    else:
        body = answer.partition(b"\r\n\r\n")[2]
        if len(body) != expected.nbytes:
            return False
        logits = np.frombuffer(body, np.float32).reshape(expected.shape)
    return _close(logits, expected, case.tolerance)


def _close(logits: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(logits - expected).max() <= tolerance * np.abs(expected).max())


def _by_wrk(wrk: str, running: Running, concurrency: int, seconds: int, folder: Path) -> tuple[float, float]:
    """Drive the server with wrk and the very bytes of one request; return answers per second and the median in ms."""
    head, _, body = running.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    (folder / "body").write_bytes(body)
    own = ("Host", "Content-Length")
    headers = [line.split(": ", 1) for line in lines if line.split(":")[0] not in own]
    script = [
        f'local file = io.open("{folder / "body"}", "rb")',
        'wrk.method = "POST"',
        'wrk.body = file:read("*a")',
        *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers),
    ]
    (folder / "post.lua").write_text("\n".join(script) + "\n")
    url = f"http://{running.host_port}{first.split()[1]}"
    options = ["-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "60s", "--latency"]
    command = [wrk, *options, "-s", folder / "post.lua", url]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=120 + seconds)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"wrk: {url}: {done.stdout}")
    median, unit = re.findall(r"^ +50% +([\d.]+)(us|ms|s)$", done.stdout, re.MULTILINE)[0]
    per_ms = {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    return float(done.stdout.partition("Requests/sec:")[2].split()[0]), float(median) * per_ms


def _section(model: str, runs: dict[str, list[Run]]) -> str:
    lines = [
        f"## {model}",
        "",
        "| server | images/s | p50 ms | p99 ms | wrk, images/s | Triton is faster by | by wrk | answers, wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for server, found in runs.items():
        p50, p99 = (
            [value for value in values if value is not None]
            for values in ([run.p50_ms for run in found], [run.p99_ms for run in found])
        )
        wrk = [run.wrk_per_s for run in found if run.wrk_per_s is not None]
        base = runs.get("triton", [])
        cells = [
            NAMES[server], _spread([run.images_per_s for run in found]), _spread(p50) if p50 else "n/a",
            _spread(p99) if len(p99) == len(found) else "n/a", _spread(wrk) if wrk else "n/a",
            _ratio([run.images_per_s for run in base], [run.images_per_s for run in found], server),
            _ratio([run.wrk_per_s or 0 for run in base], wrk, server) if wrk else "n/a",
            f"{sum(run.checked for run in found)}, {sum(run.wrong for run in found)}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        *(
            f"- {NAMES[server]}: resx's generator over wrk, of the same server in the same round: answers "
            f"{_agreement([run.images_per_s / run.wrk_per_s for run in found if run.wrk_per_s])}, "
            f"p50 {_agreement([run.p50_ms / run.wrk_p50_ms for run in found if run.p50_ms and run.wrk_p50_ms])}."
            for server, found in runs.items()
            if found[0].wrk_per_s
        ),
    ]
    return "\n".join(lines)


def _agreement(ratios: list[float]) -> str:
    """Return the geometric mean of the ratios and their range."""
    return f"{exp(statistics.mean(map(log, ratios))):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _spread(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def _ratio(base: list[float], values: list[float], server: str) -> str:
    """Return the geometric mean of the rounds' ratios, and their range."""
    if server == "triton" or not base:
        return ""
    ratios = [one / other for one, other in zip(base, values, strict=True)]
    return f"{exp(statistics.mean(map(log, ratios))):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def _page(options: argparse.Namespace, sections: list[str], wrk: str | None, settings: dict[str, str]) -> str:
    from resx.serving.client.address import parse_address

    here = environment(parse_address("127.0.0.1", "http"), "", {})
    pins = {
        server: " ".join(line for line in (HERE / f"{server}.in").read_text().split("\n") if "==" in line)
        for server in filter(_is_peer, options.servers.split(","))
    }
    return "\n".join(
        [
            "# Benchmarks: the same file behind other servers",
            "",
            "Written by this command; every figure is of one run of it:",
            "",
            f"    {shlex.join(['python', *sys.argv])}",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {here.machine}, {usable_cores()} cores shared by server and client, "
            f"Python {here.python}, load average {here.load_average} at the end.",
            "",
            f"Closed loop, {options.concurrency} requests of one image in flight over HTTP, {options.rounds} rounds of "
            f"{options.seconds:g} s or more for each server, half of it wrk's, one server at a time, their order "
            f"rotating. A window holds about {LEAST_ANSWERS} answers or more. Medians with the range "
            "over the rounds; ratios are taken within a round (geometric mean and range). "
            + ("wrk drives the same requests." if wrk else "wrk was not installed."),
            "",
            "\n\n".join(sections),
            "",
            "## The servers",
            "",
            "- Triton: the embedded server, which computes in itself (`--native`) or in a Python process for each "
            "instance, with the model's own config.pbtxt. Of a model named -int8 it serves the int8 file, made with "
            "--no-verify as weights are random; the peers serve the fp32 file.",
            *(
                [
                    "- No server: the file that Triton has, in as many sessions with as many threads, one full batch "
                    "after the other. It is what is left for servers to differ by."
                ]
                if "in_process" in options.servers.split(",")
                else []
            ),
            *(
                f"- Triton's {name}, found by `resx tune` on the native one: {found}."
                for name, found in settings.items()
            ),
            *(f"- {NAMES[server]}: benchmarks/peers/{server}_server.py; {pin}." for server, pin in pins.items()),
            f"- All peers: onnxruntime with a thread for each core, spinning {options.spinning}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
