"""A connection to a server that is kept from request to request, and never waited for.

One system call to send, one to receive; the bytes of a request were made before. It speaks HTTP/1.1 as Triton and
proxies in front of it do: keep-alive, answers with a Content-Length. No redirects, no chunked answers, no pipelining.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from typing import Any, TypeAlias

from resx.bench.load.load_task import MAX_HEAD_BYTES, LoadTask
from resx.bench.load.wire import content_length
from resx.serving.client.loopback import connect, split_host

_RECEIVE = 1 << 18
_WRITABLE = select.EPOLLIN | select.EPOLLOUT
Peer: TypeAlias = tuple[int, Any]
"""A family of addresses, and one."""
_CLOSED = "the server closed the connection before it answered"


class RequestLost(Exception):  # noqa: N818 - named after what happened
    """A request got no answer that can be read, and its connection is of no more use."""


class KeptConnection:
    """A socket that does not block, and the request that is on it."""

    __slots__ = (
        "_buffer", "_max_bytes", "_needed", "_secure", "awaits", "closes", "descriptor", "due_ns", "is_connecting",
        "is_ok", "payload", "received_ns", "sent_ns", "socket", "unsent",
    )  # fmt: skip

    def __init__(self, plain_or_secured: socket.socket, max_bytes: int, *, is_connecting: bool = False) -> None:
        self._max_bytes = max_bytes
        self.socket = plain_or_secured
        self.descriptor = plain_or_secured.fileno()
        self._secure = isinstance(plain_or_secured, ssl.SSLSocket)
        self.unsent = memoryview(b"")
        self._buffer = b""
        self._needed = 0
        self.payload = self.due_ns = self.sent_ns = self.received_ns = 0
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

    def go_on(self, event: int, poll: select.epoll) -> bytes | None:
        """Write and read what an event lets; return the whole answer once it is there.

        Raises:
            RequestLost: the connection is lost, or what comes is no answer.
        """
        # More of the request; what only can be read may be its refusal.
        if self.unsent and (event & select.EPOLLOUT or self.awaits == select.EPOLLIN):
            self.write(poll)
        if not event & ~select.EPOLLOUT:
            return None
        try:
            return self._read()
        except OSError as error:
            raise RequestLost(f"the connection was lost ({why(error)})") from error
        except ValueError as error:
            raise RequestLost(str(error)) from error

    def write(self, poll: select.epoll) -> None:
        """Write what fits, and have `poll` say when more does.

        Raises:
            RequestLost: the connection is lost.
        """
        awaited = self.awaits
        try:
            self._write()
        except OSError as error:
            raise RequestLost(f"the connection was lost ({why(error)})") from error
        if self.awaits != awaited:
            # epoll's set changes only where a request does not fit into the socket's buffer, and back.
            poll.modify(self.descriptor, self.awaits)

    def _write(self) -> None:
        self.awaits = select.EPOLLIN
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except ssl.SSLWantReadError:
                return
            except (BlockingIOError, ssl.SSLWantWriteError):
                self.awaits = _WRITABLE
                return

    def _read(self) -> bytes | None:
        while True:
            try:
                received = self.socket.recv(_RECEIVE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            self.received_ns = time.monotonic_ns()  # what is done with it here is not the server's time
            if not received:
                raise ConnectionResetError(None, _CLOSED)
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


def open_connection(task: LoadTask, context: ssl.SSLContext | None) -> KeptConnection:
    """Return a connection to the task's server, secured by the context if there is one; 5 s are enough for it.

    Raises:
        OSError: there is none.
    """
    plain = connect(*split_host(task.host_port), min(task.timeout_s, 5.0))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made = context.wrap_socket(plain, server_hostname=host_of(task)) if context else plain
    made.setblocking(False)
    return KeptConnection(made, task.max_answer_bytes)


def begin_connection(peer: Peer, task: LoadTask) -> KeptConnection:
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
    return KeptConnection(plain, task.max_answer_bytes, is_connecting=True)


def peer_of(connection: KeptConnection) -> Peer:
    """Return where a connection goes to."""
    return connection.socket.family, connection.socket.getpeername()


def why(error: OSError) -> str:
    """Return what a system call says of its failure."""
    return error.strerror or str(error)


def host_of(task: LoadTask) -> str:
    """Return the server's name or address, without its port."""
    return split_host(task.host_port)[0]
