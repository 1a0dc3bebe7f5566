"""HTTP to a server that is not trusted: so many bytes and seconds for an answer, then it is given up.

A server can send without end (a body, headers, chunks), a byte each second, or nothing. What is bounded is what comes
from the socket, below http.client, which reads it.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resx.serving.client.address import Address
from resx.serving.client.loopback import connect, split_host

MAX_HEAD_BYTES = 2**16
"""Of a status line and headers; of the framing of a chunked body, too."""
_PIECE = 2**20


class NotHttp(Exception):  # noqa: N818 - translated by the client
    """What came is no answer in HTTP, or has no end within its bounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpAnswer:
    """A status, and the body that came with it."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of several with one name the first."""
    body: bytes


class HttpConnection:
    """A connection that is kept open between requests; it serves one thread."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        """Prepare; nothing is sent yet. `timeout_s` is for all of an answer, from the attempt to connect on."""
        self._host_port = address.host_port
        self._timeout_s = timeout_s
        self._context = address.tls.context() if address.tls else None
        self._open: _Connection | None = None

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._open is not None:
            self._open.end()
            self._open = None

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, max_bytes: int
    ) -> HttpAnswer:
        """Send a request and return its answer.

        Raises:
            OSError: there is no connection, or it was lost; TimeoutError: the answer was not all there in time.
            NotHttp: what came is no answer in HTTP, or too long.
        """
        if self._open is not None and not self._open.is_usable():
            self.close()
        deadline = time.monotonic() + self._timeout_s
        if self._open is not None and method == "GET":
            # A server may close what is idle, and its word of that may still be on the way.
            with contextlib.suppress(ConnectionError):
                return self._ask(method, path, headers, body, max_bytes, deadline)
        return self._ask(method, path, headers, body, max_bytes, deadline)

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, max_bytes: int, deadline: float
    ) -> HttpAnswer:
        if self._open is None:
            self._open = _Connection(self._host_port, self._context)
        is_kept = False
        try:
            answer, is_kept = self._open.ask(method, path, headers, body, max_bytes, deadline)
        except ssl.SSLError:  # one kind of which is a ValueError
            raise
        except (http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
            raise ConnectionResetError("the server closed the connection without an answer") from error
        except (http.client.HTTPException, ValueError) as error:
            raise NotHttp(f"not HTTP: {type(error).__name__}") from error
        finally:
            if not is_kept:
                self.close()
        return answer


class _Connection(http.client.HTTPConnection):
    """What http.client speaks through: a socket that counts and has a deadline."""

    def __init__(self, host_port: str, context: ssl.SSLContext | None) -> None:
        super().__init__(*split_host(host_port))
        self._context = context
        self._deadline = 0.0
        self._bounded: _Bounded | None = None

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, max_bytes: int, deadline: float
    ) -> tuple[HttpAnswer, bool]:
        """Return the answer, and whether the connection can be used again."""
        self._deadline = deadline
        if self._bounded is not None:
            self._bounded.begin(self._deadline)
        self.request(method, path, body or None, dict(headers))
        assert self._bounded is not None
        response = self.getresponse()
        if response.getheader("content-encoding", "identity").lower() != "identity":
            raise NotHttp("a compressed answer, which was not requested")
        lengths = set(response.headers.get_all("content-length", []))
        if len(lengths) > 1 or not all(text.isascii() and text.isdecimal() for text in lengths):
            raise NotHttp("a Content-Length that is not a number")
        expected = response.length
        if (expected or 0) > max_bytes:
            raise NotHttp(f"an answer of {expected:,} bytes, where {max_bytes:,} are expected at most")
        # The framing of chunks is bounded by the body's size: a chunk may hold one byte.
        self._bounded.allow(max_bytes + MAX_HEAD_BYTES if expected is not None else 8 * max_bytes)
        pieces, size = [], 0
        while piece := response.read(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise NotHttp(f"an answer of more than {max_bytes:,} bytes")
        if expected is not None and size != expected:
            raise http.client.IncompleteRead(b"", expected - size)
        is_kept = not response.will_close
        found = {name.lower(): value for name, value in reversed(response.getheaders())}
        return HttpAnswer(status=response.status, headers=found, body=b"".join(pieces)), is_kept

    def connect(self) -> None:
        """Connect within what is left of the time."""
        plain = connect(self.host, self.port, _left_s(self._deadline))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = plain
            if self._context is not None:
                plain.settimeout(_left_s(self._deadline))
                secured = self._context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self._bounded = _Bounded(secured, self._deadline)
        self.sock = self._bounded

    def end(self) -> None:
        """Close the socket, which http.client's own `close` leaves open."""
        if self._bounded is not None:
            self._bounded.end()

    def is_usable(self) -> bool:
        """Say whether an idle connection can take a request: it is open, and nothing came that nobody asked for."""
        return self._bounded is not None and self._bounded.is_silent()


class _Bounded:
    """The part of a socket that http.client uses, with a deadline and a number of bytes to receive."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket = connection
        self._deadline, self._left = deadline, 0
        self.begin(deadline)

    def begin(self, deadline: float) -> None:
        """Begin a request: only a head may come."""
        self._deadline, self._left = deadline, MAX_HEAD_BYTES

    def allow(self, num_bytes: int) -> None:
        """Allow so many bytes from now on."""
        self._left = num_bytes

    def is_silent(self) -> bool:
        """Say whether nothing came, not even its end."""
        try:
            self._socket.setblocking(False)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def sendall(self, data: bytes) -> None:
        """Send all of it before the deadline."""
        self._socket.settimeout(_left_s(self._deadline))
        self._socket.sendall(data)

    def receive_into(self, buffer: memoryview) -> int:
        """Receive what is there, within the bounds."""
        if self._left <= 0:
            raise NotHttp("endless headers or chunks")
        self._socket.settimeout(_left_s(self._deadline))
        received = self._socket.recv_into(buffer[: self._left])
        self._left -= received
        return received

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what http.client reads an answer from."""
        return io.BufferedReader(_Received(self), 2**16)

    def close(self) -> None:
        """Do nothing: http.client closes a connection that will not be kept before it has read the answer."""

    def end(self) -> None:
        """Close the socket."""
        self._socket.close()


class _Received(io.RawIOBase):
    """What a bounded socket receives, as a file; closing it leaves the socket open."""

    def __init__(self, bounded: _Bounded) -> None:
        self._bounded = bounded

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._bounded.receive_into(memoryview(buffer))


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
