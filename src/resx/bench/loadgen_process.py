"""LoadGen's side of a scenario, in a process of its own: its queries become requests on kept connections.

LoadGen is C++ that calls back into Python and cannot be stopped before its time; in a process of its own, Ctrl-C and
a crash end it like any other. It times each sample itself, in the Server scenario from when it was due.

Source: github.com/mlcommons/inference, loadgen/ (test_settings.h, issue_query_controller.cc).
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Literal, TypeAlias

from resx.bench.recorder import NO_ANSWER, Recorder, Records
from resx.bench.task import DRAIN_S, PAUSE_S, Task
from resx.bench.wire import content_length, http_error

Scenario: TypeAlias = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SAMPLES_PER_QUERY = 8
"""Of MultiStream: MLPerf's number."""
_RECEIVE = 1 << 18
_GONE_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the process is told."""

    scenario: Scenario
    task: Task
    """Where to, and the requests; `concurrency` is the number of connections."""
    batch_size: int
    """Samples in a request."""
    duration_s: float
    rate_per_s: float
    """Server: of the Poisson process. Offline: what LoadGen is told to expect; 0: what the warm-up achieves."""
    latency_bound_ms: float
    warmup_s: float
    log_folder: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What the process saw of its requests; the rest is in LoadGen's logs."""

    records: Records
    cpu_s: float
    """Of this process during the test: LoadGen and the requests."""


def run(job: Job, pipe: Pipe) -> None:
    """Run the scenario, and send what was seen, or one line that says why not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # LoadGen writes to stdout, which is the user's
    try:
        found: Finished | str = _Run(job).result()
    except Exception as error:
        found = " ".join(str(error).split())[:300]
    pipe.send(found)
    pipe.close()
    # LoadGen's threads and ours need not be waited for.
    os._exit(0)


class _Run:
    def __init__(self, job: Job) -> None:
        import mlperf_loadgen

        self._loadgen = mlperf_loadgen
        self._job = job
        self._recorder, self._lock = Recorder(), threading.Lock()
        self._queue: queue.SimpleQueue[tuple[int, int, list[int]]] = queue.SimpleQueue()
        """When it was issued (ns), which payload to send, and the samples that it answers."""
        self._give_up_ns = 0
        self._alive_ns = 0
        self._inline = _Connection(job.task)

    def result(self) -> Finished:
        job, loadgen = self._job, self._loadgen
        per_s, least_s = self._warm_up()
        settings = self._settings(per_s, least_s)
        if job.scenario != "SingleStream":
            for _ in range(job.task.concurrency):
                threading.Thread(target=self._work, daemon=True).start()
        self._alive_ns = time.monotonic_ns()
        self._give_up_ns = self._alive_ns + int((3 * job.duration_s + DRAIN_S) * 1e9)
        sut = loadgen.ConstructSUT(self._issue, lambda: None)
        num_payloads = len(job.task.requests)
        samples = loadgen.ConstructQSL(num_payloads, num_payloads, lambda _loaded: None, lambda _unloaded: None)
        cpu = time.process_time()
        loadgen.StartTestWithLogSettings(sut, samples, settings, self._log_settings())
        with self._lock:
            return Finished(records=self._recorder.records(), cpu_s=time.process_time() - cpu)

    def _warm_up(self) -> tuple[float, float]:
        """Ask for a moment as the scenario will; return requests per second and the shortest answer's time in s."""
        streams = 1 if self._job.scenario == "SingleStream" else self._job.task.concurrency
        times: list[float] = []
        errors: list[OSError | ValueError] = []
        begun = time.monotonic()

        def ask() -> None:
            connection = _Connection(self._job.task)
            try:
                while not errors:
                    before = time.monotonic()
                    connection.ask(self._job.task.requests[len(times) % len(self._job.task.requests)])
                    times.append(time.monotonic() - before)
                    if time.monotonic() - begun > self._job.warmup_s:
                        return
            except (OSError, ValueError) as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=ask) for _ in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise RuntimeError(f"the warm-up failed: {errors[0]}")
        return len(times) / (time.monotonic() - begun), min(times)

    def _settings(self, requests_per_s: float, least_s: float) -> Any:
        job, loadgen = self._job, self._loadgen
        settings = loadgen.TestSettings()
        settings.scenario = getattr(loadgen.TestScenario, job.scenario)
        settings.mode = loadgen.TestMode.PerformanceOnly
        settings.min_duration_ms = round(job.duration_s * 1e3)
        settings.min_query_count = 1  # its rule for early stopping says how many it takes
        settings.server_target_qps = job.rate_per_s or 1.0
        settings.server_target_latency_ns = round(job.latency_bound_ms * 1e6)
        # From these LoadGen makes its queries in advance: too few, and the test is shorter than it was asked to be.
        settings.offline_expected_qps = job.rate_per_s or 1.2 * requests_per_s * job.batch_size
        settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = round(least_s * 5e8)
        settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
        for number, name in enumerate(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")):
            setattr(settings, name, 3 * job.seed + number)
        return settings

    def _log_settings(self) -> Any:
        output = self._loadgen.LogOutputSettings()
        output.outdir = self._job.log_folder
        logs = self._loadgen.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        return logs

    def _issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's callback; it must not raise, and each sample must be completed once."""
        now = time.monotonic_ns()
        identifiers = [sample.id for sample in samples]
        if self._job.scenario == "SingleStream":
            self._ask(self._inline, now, samples[0].index, identifiers)
            return
        size = self._job.batch_size
        for start in range(0, len(samples), size):
            self._queue.put((now, samples[start].index, identifiers[start : start + size]))

    def _work(self) -> None:
        connection = _Connection(self._job.task)
        while True:
            issued, payload, identifiers = self._queue.get()
            self._ask(connection, issued, payload, identifiers)

    def _ask(self, connection: _Connection, issued: int, payload: int, identifiers: list[int]) -> None:
        """Send one request and complete its samples, failed ones too: LoadGen waits for each."""
        sent = time.monotonic_ns()
        payload %= len(self._job.task.requests)
        error = NO_ANSWER if sent > self._give_up_ns else self._silence(sent)
        if not error:
            try:
                answer = connection.ask(self._job.task.requests[payload])
            except (OSError, ValueError) as reason:
                error = str(reason)
        with self._lock:
            if error:
                self._recorder.failed(issued, sent, error)
            else:
                self._recorder.answered(issued, sent, payload, answer)
                self._alive_ns = time.monotonic_ns()
        self._loadgen.QuerySamplesComplete(
            [self._loadgen.QuerySampleResponse(identifier, 0, 0) for identifier in identifiers]
        )
        if error:
            connection.close()
            time.sleep(0 if self._job.scenario == "Offline" else PAUSE_S)

    def _silence(self, now: int) -> str:
        """Return an error where requests fail since long: a server that is gone need not be asked a million times."""
        gone = self._recorder.outcome and self._recorder.outcome[-1] and now - self._alive_ns > _GONE_S * 1e9
        return f"not sent: nothing was answered for {_GONE_S:g} s" if gone else ""


class _Connection:
    """A kept connection with one request at a time on it; it is made when it is first needed."""

    def __init__(self, task: Task) -> None:
        host, _, port = task.host_port.rpartition(":")
        self._peer = (host.strip("[]"), int(port))
        self._context = task.tls.context() if task.tls else None
        self._timeout_s = task.timeout_s
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> bytes:
        """Return the whole answer.

        Raises:
            OSError: the connection is lost, or no answer came in time.
            ValueError: the answer is an error, or none of HTTP's.
        """
        try:
            return self._ask(request)
        except TimeoutError as error:
            raise OSError(f"no answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise OSError(f"the connection was lost ({error.strerror or error})") from error

    def close(self) -> None:
        """Let go of the connection; the next request makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: bytes) -> bytes:
        if self._socket is None:
            plain = socket.create_connection(self._peer, timeout=self._timeout_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = self._context.wrap_socket(plain, server_hostname=self._peer[0]) if self._context else plain
        self._socket.sendall(request)
        answer, needed = b"", 0
        while not needed or len(answer) < needed:
            received = self._socket.recv(_RECEIVE)
            if not received:
                raise ConnectionResetError(None, "the server closed it before it answered")
            answer = answer + received if answer else received
            if not needed and (end := answer.find(b"\r\n\r\n")) >= 0:
                length = content_length(answer[:end])
                if not answer.startswith(b"HTTP/1.") or length is None:
                    raise ValueError("the answer is not HTTP/1.1 with a Content-Length")
                needed = end + 4 + length
        if answer[9:12] != b"200":
            raise ValueError(http_error(answer))
        if b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower():
            self.close()
        return answer
