"""Sends HTTP requests from one thread, which sleeps in the kernel whenever nothing has happened.

On a machine that the server shares, what the client takes is missing there; and a client that polls is measured
instead of the server. So: no library for each request but bytes that were made before, one system call to send
and one to receive, epoll for all connections. A wait for the next due time goes through select, because its
timeout has microseconds where epoll's has milliseconds. Nor does it wait for a connection: a server that stands
still accepts until its backlog is full (1,024 for Triton), and the next connection then takes a second or more, in
which all that falls due would be late.
"""

from __future__ import annotations

import heapq
import select
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe

from resx.bench.load.kept_connection import (
    KeptConnection,
    Peer,
    RequestLost,
    begin_connection,
    host_of,
    open_connection,
    peer_of,
    why,
)
from resx.bench.load.load_task import DRAIN_S, PAUSE_S, PROGRESS_S, LoadTask, due_times
from resx.bench.load.request_times import NO_ANSWER, Recorder
from resx.bench.load.wire import http_error
from resx.machine import allow_open_files

_IDLE_S = 0.25
DESCRIPTORS_LEFT = 64
"""Files that a process needs beside its connections."""


class HttpLoop:
    """A closed or open loop over as many connections as it has requests in flight."""

    def __init__(self, task: LoadTask, recorder: Recorder, pipe: Pipe) -> None:
        self._task, self._recorder, self._pipe = task, recorder, pipe
        self._context = task.tls.context() if task.tls else None
        self._peer: Peer | None = None
        """Where the first connection was made to, so that a name is looked up once."""
        self._poll = select.epoll()
        self._poll.register(pipe.fileno(), select.EPOLLIN)
        self._connections: dict[int, KeptConnection] = {}
        self._idle: list[KeptConnection] = []
        self._waiting: deque[int] = deque()
        """Due times of requests for which there is no connection left."""
        self._resume: list[tuple[int, int]] = []
        """Closed loop: when (ns) a connection that failed is tried again, and a number to order them by."""
        self._next_payload = 0
        self._stopped_ns = 0
        self._most_connections = allow_open_files() - DESCRIPTORS_LEFT

    def run(self) -> None:
        """Send until the pipe says stop, then wait for what is in flight."""
        start = time.monotonic_ns()
        dues: Iterator[int] | None = due_times(self._task, start) if self._task.rate_per_s else None
        due = next(dues) if dues else 0
        if dues is None:
            for _ in range(self._task.concurrency):
                self._send(time.monotonic_ns())
        told = checked = start
        while not self._is_over():
            now = time.monotonic_ns()
            if not self._stopped_ns:
                if dues is not None:
                    while due <= now:
                        self._send(due)
                        due = next(dues)
                while self._resume and self._resume[0][0] <= now:
                    heapq.heappop(self._resume)
                    self._send(now)
            for descriptor, event in self._events(due if dues is not None and not self._stopped_ns else 0):
                if descriptor == self._pipe.fileno():
                    self._pipe.recv()
                    self._stopped_ns = time.monotonic_ns()
                elif connection := self._connections.get(descriptor):  # not one that an event before this one ended
                    self._handle(connection, event)
            if now - told > PROGRESS_S * 1e9:
                told = now
                self._pipe.send(self._recorder.progress(self._in_flight))
            if now - checked > _IDLE_S * 1e9:
                checked = now
                self._give_up_late(now)
        for due in self._waiting:
            self._recorder.failed(due, time.monotonic_ns(), NO_ANSWER)
        for connection in list(self._connections.values()):
            if connection.due_ns:
                self._recorder.failed(connection.due_ns, connection.sent_ns, NO_ANSWER)
            self._drop(connection)

    @property
    def _in_flight(self) -> int:
        return len(self._connections) - len(self._idle) + len(self._waiting)

    def _is_over(self) -> bool:
        if not self._stopped_ns:
            return False
        return self._in_flight == 0 or time.monotonic_ns() - self._stopped_ns > DRAIN_S * 1e9

    def _events(self, due_ns: int) -> list[tuple[int, int]]:
        """Wait for something to happen, to the next due time or a quarter of a second at most."""
        if due_ns:
            left = (due_ns - time.monotonic_ns()) / 1e9
            if left > 0:
                select.select([self._poll.fileno()], [], [], min(left, _IDLE_S))
            return self._poll.poll(0)
        return self._poll.poll(PAUSE_S if self._resume else _IDLE_S)

    def _send(self, due_ns: int) -> None:
        """Send the next payload, on a connection of its own."""
        connection = self._idle.pop() if self._idle else self._opened(due_ns)
        if connection is None:
            return
        payloads = self._task.requests
        connection.payload = self._next_payload
        self._next_payload = (self._next_payload + 1) % len(payloads)
        connection.begin(payloads[connection.payload], due_ns)
        if not connection.is_connecting:
            self._write(connection)

    def _opened(self, due_ns: int) -> KeptConnection | None:
        if len(self._connections) >= self._most_connections:
            self._waiting.append(due_ns)
            return None
        try:
            if self._peer is None:
                connection = open_connection(self._task, self._context)
                self._peer = peer_of(connection)
            else:
                connection = begin_connection(self._peer, self._task)
        except OSError as error:
            self._recorder.failed(due_ns, time.monotonic_ns(), _cannot_connect(error))
            self._pause()
            return None
        self._connections[connection.descriptor] = connection
        self._poll.register(connection.descriptor, connection.awaits)
        return connection

    def _pause(self) -> None:
        if not self._task.rate_per_s:
            when = time.monotonic_ns() + int(PAUSE_S * 1e9)
            heapq.heappush(self._resume, (when, len(self._resume)))

    def _write(self, connection: KeptConnection) -> None:
        try:
            connection.write(self._poll)
        except RequestLost as error:
            self._lost(connection, str(error))

    def _handle(self, connection: KeptConnection, event: int) -> None:
        if connection.is_connecting:
            try:
                connection.connected(self._context, host_of(self._task))
            except OSError as error:
                self._lost(connection, _cannot_connect(error))
                return
        try:
            answer = connection.go_on(event, self._poll)
        except RequestLost as error:
            self._lost(connection, str(error))
            return
        if answer is not None:
            self._finish(connection, answer)

    def _finish(self, connection: KeptConnection, answer: bytes) -> None:
        due, sent = connection.due_ns, connection.sent_ns
        if connection.is_ok:
            self._recorder.answered(due, sent, connection.payload, answer, connection.received_ns)
        else:
            self._recorder.failed(due, sent, http_error(answer))
        failed = not connection.is_ok
        connection.end()
        if connection.closes or connection.unsent:  # answered before it had all of the request: a refusal
            self._drop(connection)
        else:
            self._idle.append(connection)
        if self._stopped_ns:
            return
        if self._task.rate_per_s:
            if self._waiting:
                self._send(self._waiting.popleft())
        elif failed:
            self._pause()
        else:
            self._send(time.monotonic_ns())

    def _lost(self, connection: KeptConnection, reason: str) -> None:
        due, sent = connection.due_ns, connection.sent_ns
        self._drop(connection)
        if not due:
            return  # an idle connection that the server closed
        self._recorder.failed(due, sent, reason)
        if not self._stopped_ns:
            self._pause()

    def _drop(self, connection: KeptConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._connections.pop(connection.descriptor, None)
        connection.socket.close()

    def _give_up_late(self, now: int) -> None:
        allowed = int(self._task.timeout_s * 1e9)
        for connection in list(self._connections.values()):
            if connection.due_ns and now - connection.sent_ns > allowed:
                self._lost(connection, f"no answer within {self._task.timeout_s:g} s")


def _cannot_connect(error: OSError) -> str:
    return f"cannot connect ({why(error)})"
