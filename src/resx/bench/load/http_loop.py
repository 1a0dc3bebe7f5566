"""Sends HTTP requests from one thread, which sleeps in the kernel whenever nothing has happened.

On a machine that the server shares, what the client takes is missing there; and a client that polls is measured
instead of the server. So: no library for each request but bytes that were made before, one system call to send
and one to receive, epoll for all connections. A wait for the next due time goes through select, because its
timeout has microseconds where epoll's has milliseconds. Nor does it wait for a connection: a server that stands
still accepts until its backlog is full (1,024 for Triton), and the next connection then takes a second or more, in
which all that falls due would be late.

HTTP/1.1 as Triton and proxies in front of it speak it: keep-alive, answers with a Content-Length. No redirects,
no chunked answers, no pipelining.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeAlias

from resx.bench.load.load_task import DRAIN_S, MAX_HEAD_BYTES, PAUSE_S, PROGRESS_S, LoadTask, due_times
from resx.bench.load.request_times import NO_ANSWER, Recorder
from resx.bench.load.wire import content_length, http_error
from resx.machine import allow_open_files
from resx.serving.client.loopback import connect, split_host

_IDLE_S = 0.25
_RECEIVE = 1 << 18
DESCRIPTORS_LEFT = 64
"""Files that a process needs beside its connections."""
_WRITABLE = select.EPOLLIN | select.EPOLLOUT
Peer: TypeAlias = tuple[int, Any]
"""A family of addresses, and one."""
_LOST = "the server closed the connection before it answered"


class HttpLoop:
    """A closed or open loop over as many connections as it has requests in flight."""

    def __init__(self, task: LoadTask, recorder: Recorder, pipe: Pipe) -> None:
        self._task, self._recorder, self._pipe = task, recorder, pipe
        self._context = task.tls.context() if task.tls else None
        self._peer: Peer | None = None
        """Where the first connection was made to, so that a name is looked up once."""
        self._poll = select.epoll()
        self._poll.register(pipe.fileno(), select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
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
        self._write(connection)

    def _opened(self, due_ns: int) -> Connection | None:
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

    def _write(self, connection: Connection) -> None:
        if connection.is_connecting:
            return
        awaited = connection.awaits
        try:
            connection.write()
        except OSError as error:
            self._lost(connection, f"the connection was lost ({error.strerror or error})")
            return
        if connection.awaits != awaited:
            # epoll's set changes only where a request does not fit into the socket's buffer, and back.
            self._poll.modify(connection.descriptor, connection.awaits)

    def _handle(self, connection: Connection, event: int) -> None:
        if connection.is_connecting:
            try:
                connection.connected(self._context, host_of(self._task))
            except OSError as error:
                self._lost(connection, _cannot_connect(error))
                return
        if connection.may_write(event):
            self._write(connection)
            if connection.descriptor not in self._connections:
                return
        if not event & ~select.EPOLLOUT:
            return
        try:
            answer = connection.read()
        except OSError as error:
            self._lost(connection, f"the connection was lost ({error.strerror or error})")
            return
        except ValueError as error:
            self._lost(connection, str(error))
            return
        if answer is not None:
            self._finish(connection, answer)

    def _finish(self, connection: Connection, answer: bytes) -> None:
        due, sent = connection.due_ns, connection.sent_ns
        if connection.is_ok:
            self._recorder.answered(due, sent, connection.payload, answer)
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

    def _lost(self, connection: Connection, reason: str) -> None:
        due, sent = connection.due_ns, connection.sent_ns
        self._drop(connection)
        if not due:
            return  # an idle connection that the server closed
        self._recorder.failed(due, sent, reason)
        if not self._stopped_ns:
            self._pause()

    def _drop(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._connections.pop(connection.descriptor, None)
        connection.socket.close()

    def _give_up_late(self, now: int) -> None:
        allowed = int(self._task.timeout_s * 1e9)
        for connection in list(self._connections.values()):
            if connection.due_ns and now - connection.sent_ns > allowed:
                self._lost(connection, f"no answer within {self._task.timeout_s:g} s")


class Connection:
    """A socket that does not block, and the request that is on it."""

    __slots__ = (
        "_buffer", "_max_bytes", "_needed", "_secure", "awaits", "closes", "descriptor", "due_ns", "is_connecting",
        "is_ok", "payload", "sent_ns", "socket", "unsent",
    )  # fmt: skip

    def __init__(self, plain_or_secured: socket.socket, max_bytes: int, *, is_connecting: bool = False) -> None:
        self._max_bytes = max_bytes
        self.socket = plain_or_secured
        self.descriptor = plain_or_secured.fileno()
        self._secure = isinstance(plain_or_secured, ssl.SSLSocket)
        self.unsent = memoryview(b"")
        self._buffer = b""
        self._needed = 0
        self.payload = self.due_ns = self.sent_ns = 0
        self.is_ok = self.closes = False
        self.is_connecting = is_connecting
        self.awaits = _WRITABLE if is_connecting else select.EPOLLIN
        """The events of epoll that go on with it."""

    def connected(self, context: ssl.SSLContext | None, host: str) -> None:
        """Find out what became of the attempt to connect; TLS is negotiated with what is written first.

        Raises:
            OSError: it failed.
        """
        if number := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        self.is_connecting = False
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname=host, do_handshake_on_connect=False)
            self._secure = True

    def begin(self, request: bytes, due_ns: int) -> None:
        """Take a request, which is then to be written."""
        self.unsent = memoryview(request)
        self.due_ns = due_ns
        self.sent_ns = time.monotonic_ns()

    def end(self) -> None:
        """Let go of the request and its answer."""
        self._buffer, self._needed, self.due_ns = b"", 0, 0

    def may_write(self, event: int) -> bool:
        """Say whether an event lets more of the request be written; what only can be read may be its refusal."""
        return bool(self.unsent) and (bool(event & select.EPOLLOUT) or self.awaits == select.EPOLLIN)

    def write(self) -> None:
        """Write what fits; see `unsent` and `awaits`.

        Raises:
            OSError: the connection is lost.
        """
        self.awaits = select.EPOLLIN
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except ssl.SSLWantReadError:
                return
            except (BlockingIOError, ssl.SSLWantWriteError):
                self.awaits = _WRITABLE
                return

    def read(self) -> bytes | None:
        """Read what is there; return the whole answer, or None while parts are missing.

        Raises:
            OSError: the connection is lost.
            ValueError: what comes is no answer, or too long for one.
        """
        while True:
            try:
                received = self.socket.recv(_RECEIVE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            if not received:
                raise ConnectionResetError(None, _LOST)
            self._buffer = self._buffer + received if self._buffer else received
            if not self._needed:
                self._read_head()
            if self._needed and len(self._buffer) >= self._needed:
                return self._buffer
            if not self._secure:
                return None  # epoll says when there is more; TLS may hold some back, so it is read empty

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if max(end, 0) > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise ValueError(f"an answer whose headers do not end within {MAX_HEAD_BYTES:,} bytes")
        if end < 0:
            return
        head = self._buffer[:end]
        length = content_length(head)
        if not head.startswith(b"HTTP/1.") or length is None:
            raise ValueError("the answer is not HTTP/1.1 with a Content-Length; give --protocol grpc")
        if length > self._max_bytes:
            raise ValueError(f"an answer of {length:,} bytes, where {self._max_bytes:,} are expected at most")
        self._needed = end + 4 + length
        self.is_ok = head[9:12] == b"200"
        self.closes = b"connection: close" in head.lower()


def open_connection(task: LoadTask, context: ssl.SSLContext | None) -> Connection:
    """Return a connection to the task's server, secured by the context if there is one; 5 s are enough for it.

    Raises:
        OSError: there is none.
    """
    plain = connect(*split_host(task.host_port), min(task.timeout_s, 5.0))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made = context.wrap_socket(plain, server_hostname=host_of(task)) if context else plain
    made.setblocking(False)
    return Connection(made, task.max_answer_bytes)


def begin_connection(peer: Peer, task: LoadTask) -> Connection:
    """Return a connection that is on its way, without waiting for it.

    Raises:
        OSError: it cannot be.
    """
    family, address = peer
    plain = socket.socket(family, socket.SOCK_STREAM)
    plain.setblocking(False)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number = plain.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):
        plain.close()
        raise OSError(number, os.strerror(number))
    return Connection(plain, task.max_answer_bytes, is_connecting=True)


def peer_of(connection: Connection) -> Peer:
    """Return where a connection goes to."""
    return connection.socket.family, connection.socket.getpeername()


def host_of(task: LoadTask) -> str:
    """Return the server's name or address, without its port."""
    return split_host(task.host_port)[0]


def _cannot_connect(error: OSError) -> str:
    return f"cannot connect ({error.strerror or error})"
