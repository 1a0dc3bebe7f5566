"""Measure one contender in one round: alone, eight at a time, or in process; compare its answers with the file's."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peer_contenders import Contender
from benchmarks.peer_servers import Running, running

from resx.bench.in_process import InProcessRun, measure_in_process
from resx.bench.load import wire
from resx.bench.load.generator import Generators
from resx.bench.load.load_task import LoadTask
from resx.bench.load.payloads import canaries
from resx.bench.load.request_times import Records
from resx.bench.results.samples import Samples, merge, percentiles
from resx.repository.versions import Published
from resx.runtimes.model_file import open_model

WARMUP_S = 1.0
CHECKED = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a contender did in one round; None: not measured, as of servers and files in process."""

    wrong: int
    failed: int
    checked: int
    c1_p50_ms: float | None = None
    c8_per_s: float | None = None
    c8_p50_ms: float | None = None
    c8_p99_ms: float | None = None
    wrk_per_s: float | None = None
    b1_ms: float | None = None
    b4_per_s: float | None = None
    b8_per_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A version, what is sent, and what its file answers in its own runtime in this process."""

    version: Published
    images: tuple[np.ndarray, ...]
    """Each [1, 3, H, W]."""
    expected: tuple[np.ndarray, ...]
    tolerance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """How long, and with what."""

    seconds: float
    """Of each window."""
    folder: Path
    environments: Path
    spinning: str
    wrk: str | None
    """The program, which drives the same requests; None where it is not installed."""


def case_of(version: Published) -> Case:
    """Return a version with what it answers."""
    card = version.repository.card(version.name, version.version)
    payloads = canaries(card, 1)
    model = open_model(version.folder / card.model_file, card)
    return Case(
        version=version,
        images=payloads.tensors,
        expected=tuple(map(model, payloads.tensors)),
        tolerance=payloads.tolerance,
    )


def measure_round(contender: Contender, case: Case, how: Measuring) -> dict[str, Any]:
    """Measure a contender once."""
    if contender.kind == "in_process":
        return asdict(_in_process(case, how))
    with running(contender, case.version, case.images, how.folder, how.environments, how.spinning) as server:
        return asdict(_served(server, case, how))


def _served(server: Running, case: Case, how: Measuring) -> Round:
    alone, many = (load(server, concurrency, how.seconds) for concurrency in (1, 8))
    per_s = None if how.wrk is None else _by_wrk(how.wrk, server, how)
    answers = [answer for one in (alone, many) for record in one.records for answer in record.answers]
    answers = answers[:: max(1, len(answers) // CHECKED)]
    latency = percentiles(many.inside.answered.latencies_ms)
    return Round(
        wrong=sum(not _is_right(server, case, payload, answer) for _, payload, answer in answers),
        failed=sum(len(one.inside) - len(one.inside.answered) for one in (alone, many)),
        checked=len(answers),
        c1_p50_ms=float(np.median(alone.inside.answered.latencies_ms)),
        c8_per_s=many.answers_per_s,
        c8_p50_ms=latency.p50_ms,
        c8_p99_ms=latency.p99_ms,
        wrk_per_s=per_s,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A window of a closed loop."""

    records: list[Records]
    inside: Any
    """The samples that ended in the window that counts."""
    answers_per_s: float


def load(server: Running, concurrency: int, seconds: float, warmup_s: float = WARMUP_S) -> Load:
    """Keep so many requests in flight for a while.

    Raises:
        SystemExit: nothing was answered.
    """
    task = LoadTask(protocol="http", host_port=server.host_port, requests=server.requests, concurrency=concurrency)
    with Generators([task]) as generators:
        generators.wait_until_ready()
        _pass(generators, warmup_s)
        opened_ns = time.monotonic_ns()
        _pass(generators, seconds)
        closed_ns = time.monotonic_ns()
        records = generators.stop()
    samples = merge(records)
    inside = samples.where((samples.done_ns >= opened_ns) & (samples.done_ns < closed_ns))
    if not len(inside.answered):
        raise SystemExit(f"{server.host_port}: answered nothing in {seconds:g} s; give more --seconds")
    return Load(records=records, inside=inside, answers_per_s=answers_per_s(samples.answered, opened_ns, closed_ns))


def answers_per_s(answered: Samples, opened_ns: int, closed_ns: int) -> float:
    """Return how many answers came per second, from the last one before a window to the last one in it.

    Batches end as a whole. Where a window of 2 s has 25 of them, the part of one at its edges is 4 %; in process, too,
    time is counted from the end of a batch to the end of a batch.
    """
    done_ns = np.sort(answered.done_ns)
    first, last = np.searchsorted(done_ns, (opened_ns, closed_ns))
    since_ns = done_ns[first - 1] if first else opened_ns
    return float((last - first) / ((done_ns[last - 1] - since_ns) / 1e9))


def _pass(generators: Generators, seconds: float) -> None:
    until = time.monotonic_ns() + int(seconds * 1e9)
    while time.monotonic_ns() < until:
        generators.watch(until)


def _in_process(case: Case, how: Measuring) -> Round:
    """Run the file as it is served, in batches of 1, 4 and 8."""
    found = {size: _run_in_process(case, size, how) for size in (1, 4, 8)}
    one = found[1]
    wrong = sum(
        not _close(logits, expected, case.tolerance) for logits, expected in zip(one.logits, case.expected, strict=True)
    )
    return Round(
        wrong=wrong,
        failed=0,
        checked=len(case.expected),
        b1_ms=one.p50_ms,
        b4_per_s=found[4].images_per_s,
        b8_per_s=found[8].images_per_s,
    )


def _run_in_process(case: Case, size: int, how: Measuring) -> InProcessRun:
    card, folder = case.version.repository.card(case.version.name, case.version.version), case.version.folder
    tensors = batches_of(case, size)
    return measure_in_process(folder, card, size, instances=0, threads=0, duration_s=how.seconds, tensors=tensors)


def batches_of(case: Case, size: int) -> list[np.ndarray]:
    """Return the case's images in batches of a size, each beginning with another one."""
    rows = case.images * (1 + size // len(case.images))
    return [np.concatenate((rows[first:] + rows[:first])[:size]) for first in range(len(case.images))]


def _is_right(server: Running, case: Case, payload: int, answer: bytes) -> bool:
    expected = case.expected[payload]
    if server.triton is not None:
        return _close(wire.logits_of(server.triton, answer, 1), expected, case.tolerance)
    body = answer.partition(b"\r\n\r\n")[2]
    if len(body) != expected.nbytes:
        return False
    return _close(np.frombuffer(body, np.float32).reshape(expected.shape), expected, case.tolerance)


def _close(logits: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(logits - expected).max() <= tolerance * np.abs(expected).max())


def _by_wrk(wrk: str, server: Running, how: Measuring) -> float:
    """Drive the server with wrk, 8 requests in flight, and the very bytes of one request; return answers per second."""
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    (how.folder / "body").write_bytes(body)
    headers = [line.split(": ", 1) for line in lines if line.split(":")[0] not in ("Host", "Content-Length")]
    script = [
        f'local file = io.open("{how.folder / "body"}", "rb")',
        'wrk.method = "POST"',
        'wrk.body = file:read("*a")',
        *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers),
    ]
    (how.folder / "post.lua").write_text("\n".join(script) + "\n")
    seconds = max(1, round(how.seconds))
    url = f"http://{server.host_port}{first.split()[1]}"
    command = [wrk, "-t1", "-c8", f"-d{seconds}s", "--timeout", "60s", "-s", str(how.folder / "post.lua"), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120 + seconds)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"wrk: {url}: {done.stdout}")
    (per_s,) = re.findall(r"^Requests/sec: +([\d.]+)$", done.stdout, re.MULTILINE)
    return float(per_s)
