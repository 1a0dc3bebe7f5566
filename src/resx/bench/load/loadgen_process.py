"""LoadGen's side of a scenario, in a process of its own: its queries become requests on kept connections.

LoadGen is C++ that calls back into Python and cannot be stopped before its time; in a process of its own, Ctrl-C and
a crash end it like any other. It times each sample itself, in the Server scenario from when it was due.

Its own thread sends, and one of ours reads the answers of all connections. With a thread per connection, woken
through a queue, a request cost twice the processor time and its p99 was a fifth above that of `resx bench` at the same
rate: on cores shared with the server, that is measured too.

Source: github.com/mlcommons/inference, loadgen/ (test_settings.h, issue_query_controller.cc).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeAlias

from resx.bench.load.generator import go_before_others
from resx.bench.load.kept_connection import KeptConnection, RequestLost, open_connection, why
from resx.bench.load.load_task import DRAIN_S, PAUSE_S, LoadTask
from resx.bench.load.request_times import NO_ANSWER, Recorder, Records
from resx.bench.load.scenario_plan import ScenarioPlan
from resx.bench.load.wire import http_error
from resx.text import join_lines

SAMPLES_PER_QUERY = 8
"""Of MultiStream: MLPerf's number."""
_GONE_S = 3.0
_IDLE_S = 0.25
_SERVER_WARM_UP = 4
"""Requests at a time before the Server scenario, which may allow many more: they would fill the server's queue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the process is told."""

    plan: ScenarioPlan
    task: LoadTask
    """Where to, and the requests; `concurrency` is the number of connections."""
    batch_size: int
    """Samples in a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What the process saw of its requests; the rest is in LoadGen's logs."""

    records: Records
    cpu_s: float
    """Of this process during the test: LoadGen and the requests."""


def run(job: Job, pipe: Pipe) -> None:
    """Run the scenario, and send what was seen, or one line that says why not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        go_before_others(job.task)
        # Its threads hand one lock (the GIL) to each other: across cores that costs a wake-up each, and takes two
        # cores from a server that shares them. On one core p99 fell from 1.1 to 1.0 times that of `resx bench`.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.dup2(2, 1)  # LoadGen writes to stdout, which is the user's
    try:
        found: Finished | str = _Run(job).result()
    except Exception as error:
        found = join_lines(str(error))[:300]
    pipe.send(found)
    pipe.close()
    # LoadGen's threads and ours need not be waited for.
    os._exit(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """A request that LoadGen asked for."""

    issued_ns: int
    payload: int
    identifiers: list[int]
    """Of the samples that it answers."""


_Ended: TypeAlias = tuple[_Request, int, bytes, str]
"""A request, when it was sent (ns; issued, if it never was), its answer, and the error if there is none."""


class _Streams:
    """Connections with one request on each; requests beyond them wait.

    Whoever brings a request sends it, if a connection is free; `read` returns what ended since.
    """

    def __init__(self, task: LoadTask, *, rests: bool) -> None:
        self._task, self._rests = task, rests
        self._context = task.tls.context() if task.tls else None
        self._poll = select.epoll()
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._idle: list[KeptConnection] = []
        self._busy: dict[int, tuple[KeptConnection, _Request]] = {}
        self._resting: deque[int] = deque()
        """When (ns) each connection on which a request failed may be used again."""
        self._give_up_ns = 1 << 62
        self._answered_ns = 0
        self._failing = False

    def open(self, number: int) -> None:
        """Make connections now, so that no request has to wait for its own.

        Raises:
            OSError: there is no server.
        """
        for _ in range(number - len(self._idle)):
            self._idle.append(self._opened())

    def begin(self, seconds: float) -> None:
        """Fail what is not sent in so many seconds from now: LoadGen waits for all that it asked for."""
        self._answered_ns = time.monotonic_ns()
        self._give_up_ns = self._answered_ns + int(seconds * 1e9)

    def send(self, requests: Iterator[_Request]) -> list[_Ended]:
        """Send what there are connections for; return those that failed already."""
        with self._lock:
            self._waiting.extend(requests)
            return self._sent()

    def read(self) -> list[_Ended]:
        """Wait for something to happen; return the requests that ended."""
        events = self._poll.poll(PAUSE_S if self._resting else _IDLE_S)
        with self._lock:
            ended = [end for descriptor, event in events for end in self._handled(descriptor, event)]
            ended += self._late()
            return ended + self._sent()

    def _sent(self) -> list[_Ended]:
        ended: list[_Ended] = []
        now = time.monotonic_ns()
        while self._resting and self._resting[0] <= now:
            self._resting.popleft()
        while self._waiting:
            if refusal := self._refusal(now):
                request = self._waiting.popleft()
                ended.append((request, request.issued_ns, b"", refusal))
                continue
            if len(self._busy) + len(self._resting) >= self._task.concurrency:
                break
            request = self._waiting.popleft()
            try:
                connection = self._idle.pop() if self._idle else self._opened()
            except OSError as error:
                ended.append((request, request.issued_ns, b"", self._failed(f"cannot connect ({why(error)})")))
                continue
            self._busy[connection.descriptor] = connection, request
            connection.begin(self._task.requests[request.payload], request.issued_ns)
            try:
                connection.write(self._poll)
            except RequestLost as error:
                ended.append(self._lost(connection, request, str(error)))
        return ended

    def _refusal(self, now: int) -> str:
        """Return why nothing is to be sent: a server that is gone need not be asked a million times."""
        if now > self._give_up_ns:
            return NO_ANSWER
        gone = self._failing and now - self._answered_ns > _GONE_S * 1e9
        return f"not sent: no answer for {_GONE_S:g} s" if gone else ""

    def _opened(self) -> KeptConnection:
        connection = open_connection(self._task, self._context)
        self._poll.register(connection.descriptor, select.EPOLLIN)
        return connection

    def _handled(self, descriptor: int, event: int) -> list[_Ended]:
        if descriptor not in self._busy:
            self._drop_idle(descriptor)
            return []
        connection, request = self._busy[descriptor]
        try:
            answer = connection.go_on(event, self._poll)
        except RequestLost as error:
            return [self._lost(connection, request, str(error))]
        if answer is None:
            return []
        if not connection.is_ok:
            return [self._lost(connection, request, http_error(answer))]
        self._answered_ns, self._failing = time.monotonic_ns(), False
        sent_ns = connection.sent_ns
        del self._busy[descriptor]
        connection.end()
        if connection.closes:
            connection.socket.close()
        else:
            self._idle.append(connection)
        return [(request, sent_ns, answer, "")]

    def _late(self) -> list[_Ended]:
        oldest = time.monotonic_ns() - int(self._task.timeout_s * 1e9)
        reason = f"no answer within {self._task.timeout_s:g} s"
        late = [busy for busy in self._busy.values() if busy[0].sent_ns < oldest]
        return [self._lost(connection, request, reason) for connection, request in late]

    def _lost(self, connection: KeptConnection, request: _Request, error: str) -> _Ended:
        del self._busy[connection.descriptor]
        connection.socket.close()
        return request, connection.sent_ns, b"", self._failed(error)

    def _failed(self, error: str) -> str:
        self._failing = True
        if self._rests:
            self._resting.append(time.monotonic_ns() + int(PAUSE_S * 1e9))
        return error

    def _drop_idle(self, descriptor: int) -> None:
        """Let go of a connection that the server closed while nothing was on it."""
        for connection in self._idle:
            if connection.descriptor == descriptor:
                self._idle.remove(connection)
                connection.socket.close()
                return


class _Run:
    def __init__(self, job: Job) -> None:
        import mlperf_loadgen

        self._loadgen = mlperf_loadgen
        self._job = job
        self._recorder, self._lock = Recorder(), threading.Lock()
        self._streams = _Streams(job.task, rests=job.plan.scenario != "Offline")
        self._next_payload = 0

    def result(self) -> Finished:
        job, loadgen = self._job, self._loadgen
        per_s, least_s = self._warm_up()
        settings = self._settings(per_s, least_s)
        self._streams.begin(3 * job.plan.duration_s + DRAIN_S)
        threading.Thread(target=self._read, daemon=True).start()
        sut = loadgen.ConstructSUT(self._issue, lambda: None)
        num_payloads = len(job.task.requests)
        samples = loadgen.ConstructQSL(num_payloads, num_payloads, lambda _loaded: None, lambda _unloaded: None)
        gc.collect()
        gc.disable()
        cpu = time.process_time()
        loadgen.StartTestWithLogSettings(sut, samples, settings, self._log_settings())
        with self._lock:
            return Finished(records=self._recorder.records(), cpu_s=time.process_time() - cpu)

    def _warm_up(self) -> tuple[float, float]:
        """Ask for a moment as the scenario will; return requests per second and the shortest answer's time in s."""
        job = self._job
        streams = min(job.task.concurrency, _SERVER_WARM_UP) if job.plan.scenario == "Server" else job.task.concurrency
        begun = time.monotonic_ns()
        until = begun + int(job.plan.warmup_s * 1e9)
        times: list[int] = []
        try:
            self._streams.open(job.task.concurrency)
            self._streams.begin(job.plan.warmup_s + DRAIN_S)
            ended = self._streams.send(self._another() for _ in range(streams))
            in_flight = streams
            while in_flight:
                for request, _, _, error in ended:
                    if error:
                        raise RuntimeError(f"the warm-up failed: {error}")
                    times.append(time.monotonic_ns() - request.issued_ns)
                in_flight -= len(ended)
                again = len(ended) if time.monotonic_ns() < until else 0
                in_flight += again
                ended = self._streams.send(self._another() for _ in range(again)) + self._streams.read()
        except OSError as error:
            raise RuntimeError(f"the warm-up failed: cannot connect ({why(error)})") from error
        return len(times) / ((time.monotonic_ns() - begun) / 1e9), min(times) / 1e9

    def _another(self) -> _Request:
        self._next_payload += 1
        payload = self._next_payload % len(self._job.task.requests)
        return _Request(issued_ns=time.monotonic_ns(), payload=payload, identifiers=[])

    def _settings(self, requests_per_s: float, least_s: float) -> Any:
        job, loadgen = self._job, self._loadgen
        settings = loadgen.TestSettings()
        settings.scenario = getattr(loadgen.TestScenario, job.plan.scenario)
        settings.mode = loadgen.TestMode.PerformanceOnly
        settings.min_duration_ms = round(job.plan.duration_s * 1e3)
        settings.min_query_count = 1  # its rule for early stopping says how many it takes
        settings.server_target_qps = job.plan.rate_per_s or 1.0
        settings.server_target_latency_ns = round(job.plan.latency_bound_ms * 1e6)
        # From these LoadGen makes its queries in advance: too few, and the test is shorter than it was asked to be.
        settings.offline_expected_qps = job.plan.rate_per_s or 1.2 * requests_per_s * job.batch_size
        settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = round(least_s * 5e8)
        settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
        for number, name in enumerate(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")):
            setattr(settings, name, 3 * job.plan.seed + number)
        return settings

    def _log_settings(self) -> Any:
        output = self._loadgen.LogOutputSettings()
        output.outdir = str(self._job.plan.log_folder)
        logs = self._loadgen.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        return logs

    def _issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's callback; it must not raise, and each sample must be completed once."""
        now, size = time.monotonic_ns(), self._job.batch_size
        identifiers = [sample.id for sample in samples]
        num_payloads = len(self._job.task.requests)
        requests = (
            _Request(
                issued_ns=now,
                payload=samples[start].index % num_payloads,
                identifiers=identifiers[start : start + size],
            )
            for start in range(0, len(samples), size)
        )
        self._complete(self._streams.send(requests))

    def _read(self) -> None:
        while True:
            self._complete(self._streams.read())

    def _complete(self, ended: Sequence[_Ended]) -> None:
        """Note how requests ended and complete their samples, failed ones too: LoadGen waits for each."""
        for request, sent_ns, answer, error in ended:
            with self._lock:
                if error:
                    self._recorder.failed(request.issued_ns, sent_ns, error)
                else:
                    self._recorder.answered(request.issued_ns, sent_ns, request.payload, answer)
            self._loadgen.QuerySamplesComplete(
                [self._loadgen.QuerySampleResponse(identifier, 0, 0) for identifier in request.identifiers]
            )
