"""The kinds of hostile requests, each a function that sends one and says how it ended.

An end is a status of http or gRPC, `closed` where the server closed the connection instead, or `no answer`.
"""

from __future__ import annotations

import gzip
import http.client
import random
import socket
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

import grpc
from benchmarks.fault_requests import KINDS, PATH, infer_body, random_request, valid_message
from tests.support.running_triton import MODEL

from resx.serving.client.loopback import LOOPBACK

_PATHS = (
    PATH, f"/v2/models/{MODEL}/versions/1/infer", f"/v2/models/{MODEL}/generate", f"/v2/models/{MODEL}/generate_stream",
    "/v2/repository/index", f"/v2/repository/models/{MODEL}/load", f"/v2/repository/models/{MODEL}/unload",
    "/v2/logging", "/v2/trace/setting", f"/v2/models/{MODEL}/trace/setting", "/v2/systemsharedmemory/region/x/register",
    "/v2/cudasharedmemory/region/x/register", f"/v2/models/{MODEL}/stats", "/v2/health/ready", "/metrics", "/",
)  # fmt: skip
_SERVICE = "/inference.GRPCInferenceService/"
_METHODS = (
    "ModelInfer", "ModelStreamInfer", "ModelMetadata", "ModelConfig", "ModelReady", "ModelStatistics", "ServerLive",
    "ServerMetadata", "RepositoryIndex", "RepositoryModelLoad", "SystemSharedMemoryRegister", "TraceSetting",
    "LogSettings", "None",
)  # fmt: skip
_FOREIGN = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "192.168.0.1", "[::2]", "null")
_BOMB = gzip.compress(bytes(50_000_000), 9)
_TIMEOUT_S = 60.0


class Connection:
    """A connection that is kept as long as the server keeps it, and opened again when it is wanted."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.channel = grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.max_send_message_length", -1)])
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.channel.close()

    def close(self) -> None:
        """Close it, if it is open."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def exchange(self, pieces: Iterable[bytes], *, answer: bool = True) -> str:
        """Send the pieces; return the status of the answer, or of none if none is waited for."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection((LOOPBACK, self.port), timeout=_TIMEOUT_S)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                self._socket.sendall(piece)
            if not answer:
                self.close()
                return "left"
            response = http.client.HTTPResponse(self._socket)
            response.begin()
            response.read()
            if response.will_close:
                self.close()
            return str(response.status)
        except TimeoutError:
            self.close()
            return "no answer"
        except (OSError, http.client.HTTPException):
            self.close()
            return "closed"

    def post(self, path: str, body: bytes, **headers: object) -> str:
        """Send a request; `_` in a header's name stands for `-`."""
        words = {"Host": f"localhost:{self.port}", "Content-Length": len(body)}
        words |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in words.items())
        return self.exchange([f"POST {path} HTTP/1.1\r\n{head}\r\n".encode(), body])


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of request."""

    name: str
    send: Callable[[Connection, random.Random], str]
    weight: float = 1.0
    """How often it is sent, beside the others."""
    never: frozenset[str] = field(default=frozenset({"200", "no answer"}))
    """Ends that would be a fault."""


def _nested(connection: Connection, chance: random.Random) -> str:
    opening = chance.choice((b"[", b'{"a":', b'[{"inputs":'))
    body = chance.choice((b"", b'{"inputs":', b'{"id":"')) + opening * int(10 ** chance.uniform(3, 5))
    return connection.post(
        chance.choice(_PATHS[:11]), body, Content_Type=chance.choice(("text/plain", "application/json"))
    )


def _very_deep(connection: Connection, chance: random.Random) -> str:
    return connection.post(PATH, chance.choice((b"[", b'{"a":')) * 10_000_000)


def _shape(connection: Connection, chance: random.Random) -> str:
    shape = [
        chance.choice((-1, 0, 1, 3, 16, 2**31, 2**62, 2**63 - 1, 2**64, 10**6)) for _ in range(chance.randint(0, 6))
    ]
    kind = chance.choice(("UINT8", "FP64", "BYTES", "INT64", "BF16", "nonsense"))
    return connection.post(PATH, infer_body(shape=[*shape, 7], datatype=kind, data=[0]))


def _changed(connection: Connection, chance: random.Random) -> str:
    headers, body = random_request(chance, infer_body(), binary=chance.random() < 0.3)
    return connection.post(chance.choice(_PATHS[:4]), body, **headers)


def _known(connection: Connection, chance: random.Random) -> str:
    headers, body = chance.choice(chance.choice([requests for name, requests in KINDS.items() if "deep" not in name]))
    return connection.post(PATH, body, **headers)


def _foreign_page(connection: Connection, chance: random.Random) -> str:
    return connection.post(PATH, infer_body(), Content_Type="text/plain", Origin=f"http://{chance.choice(_FOREIGN)}")


def _rebound_name(connection: Connection, chance: random.Random) -> str:
    return connection.post(PATH, infer_body(), Host=chance.choice(_FOREIGN))


def _form(connection: Connection, chance: random.Random) -> str:
    body = chance.choice((b"a=b&", b"%", b"=", b"&", b"a")) * int(10 ** chance.uniform(2, 6))
    return connection.post(PATH, body, Content_Type="application/x-www-form-urlencoded")


def _packed(connection: Connection, chance: random.Random) -> str:
    encoding = chance.choice(("gzip", "deflate", "br", "gzip, gzip"))
    body = chance.choice((_BOMB, zlib.compress(infer_body()), gzip.compress(infer_body()), b"x"))
    return connection.post(chance.choice(_PATHS[:4]), body, Content_Encoding=encoding)


def _small_chunks(connection: Connection, chance: random.Random) -> str:
    number = int(10 ** chance.uniform(2, 4.5))
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return connection.exchange([head, b"1\r\n[\r\n" * number, b"0\r\n\r\n"])


def _endless_body(connection: Connection, chance: random.Random) -> str:
    chunked = chance.random() < 0.5
    head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {10**12}"
    piece = b"100000\r\n" + b" " * 2**20 + b"\r\n" if chunked else b" " * 2**20
    begin = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode()
    return connection.exchange(begin if index == 0 else piece for index in range(200))


def _endless_headers(connection: Connection, chance: random.Random) -> str:
    begin = f"POST {PATH} HTTP/1.1\r\n".encode()
    piece = chance.choice((b"A: x\r\n" * 1000, b"A: " + b"x" * 4000 + b"\r\n", b"x" * 10_000, b"a: \r\n" * 1000))
    return connection.exchange(begin if index == 0 else piece for index in range(10_000))


def _broken_off(connection: Connection, chance: random.Random) -> str:
    body = infer_body()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return connection.exchange([(head + body)[: chance.randrange(len(head) + len(body))]], answer=False)


def _bad_http(connection: Connection, chance: random.Random) -> str:
    lines = (
        chance.randbytes(chance.randint(1, 500)), b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100 + b"\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"GET /" + b"%" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET /v2?" + b"a&" * 3000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v2/models/" + b"../" * 1000 + b" HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n: x\r\n \r\n\r\n",
    )  # fmt: skip
    return connection.exchange([chance.choice(lines)], answer=False)


_MAY_BE_VALID = frozenset({"no answer"})
HTTP_KINDS = (
    Kind(name="nested JSON", send=_nested),
    Kind(name="JSON ten million deep", send=_very_deep, weight=0.0005),
    Kind(name="impossible shape", send=_shape),
    Kind(name="known from make faults", send=_known, weight=0.5),
    Kind(name="valid request with changes", send=_changed, weight=2, never=_MAY_BE_VALID),
    Kind(name="page's Origin", send=_foreign_page),
    Kind(name="page's Host", send=_rebound_name),
    Kind(name="form", send=_form, weight=0.3),
    Kind(name="packed body", send=_packed, weight=0.3),
    Kind(name="body in chunks of a byte", send=_small_chunks, weight=0.3),
    Kind(name="endless body", send=_endless_body, weight=0.003),
    Kind(name="endless headers", send=_endless_headers, weight=0.03),
    Kind(name="broken off", send=_broken_off, never=frozenset()),
    Kind(name="bad http", send=_bad_http, never=frozenset()),
)


def _called(connection: Connection, method: str, message: bytes, compression: grpc.Compression | None = None) -> str:
    call = connection.channel.unary_unary(_SERVICE + method)
    try:
        call(message, timeout=_TIMEOUT_S, compression=compression)
    except grpc.RpcError as error:
        code = error.code()
        return "no answer" if code is grpc.StatusCode.DEADLINE_EXCEEDED else str(code.name)
    return "OK"


def _random_message(connection: Connection, chance: random.Random) -> str:
    return _called(connection, chance.choice(_METHODS), chance.randbytes(int(10 ** chance.uniform(0, 5))))


def _nested_message(connection: Connection, chance: random.Random) -> str:
    """Groups, which protobuf's parser enters, and messages in messages."""
    opening = chance.choice((b"\x0b", b"\x2b", b"\x0a\x7f"))
    return _called(connection, chance.choice(_METHODS[:5]), opening * int(10 ** chance.uniform(2, 5.5)))


def _changed_message(connection: Connection, chance: random.Random) -> str:
    message = bytearray(valid_message())
    for _ in range(chance.randint(1, 4)):
        message[chance.randrange(60)] = chance.randrange(256)
    return _called(connection, "ModelInfer", bytes(message[: chance.randint(1, len(message))]))


def _packed_message(connection: Connection, chance: random.Random) -> str:
    compression = chance.choice((grpc.Compression.Gzip, grpc.Compression.Deflate))
    return _called(connection, "ModelInfer", bytes(int(10 ** chance.uniform(2, 6.5))), compression)


def _huge_message(connection: Connection, _: random.Random) -> str:
    return _called(connection, "ModelInfer", valid_message() + bytes(200_000_000))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _http2(connection: Connection, frames: Iterable[bytes]) -> str:
    """Send frames on a connection of its own and go, whatever is answered."""
    with socket.create_connection((LOOPBACK, connection.port), timeout=_TIMEOUT_S) as opened:
        try:
            opened.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0))
            for frame in frames:
                opened.sendall(frame)
        except OSError:
            return "closed"
    return "left"


def _random_frames(connection: Connection, chance: random.Random) -> str:
    return _http2(
        connection,
        (
            _frame(chance.randint(0, 10), chance.randrange(256), chance.randrange(2**31), chance.randbytes(size))
            for size in chance.choices(range(300), k=chance.randint(1, 50))
        ),
    )


def _left_streams(connection: Connection, chance: random.Random) -> str:
    """Begin calls by the hundred, and cancel them at once or go."""
    method, cancelled, ended = chance.choice(_METHODS), chance.random() < 0.5, chance.random() < 0.5
    return leave_calls(connection, chance.randint(1, 300), method, cancelled=cancelled, ended=ended)


def leave_calls(
    connection: Connection, number: int, method: str = "ModelInfer", *, cancelled: bool = False, ended: bool = False
) -> str:
    """Begin so many calls on a connection of their own, and go."""
    words = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _SERVICE + method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    fields = b"".join(b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair) for pair in words.items())
    cancel = (8).to_bytes(4, "big")
    return _http2(
        connection,
        (
            _frame(1, 4 | ended, stream, fields) + (_frame(3, 0, stream, cancel) if cancelled else b"")
            for stream in range(1, 2 * number, 2)
        ),
    )


def _bad_preface(connection: Connection, chance: random.Random) -> str:
    with Connection(connection.port) as opened:
        return opened.exchange([chance.choice((chance.randbytes(500), b"GET / HTTP/1.1\r\n\r\n"))], answer=False)


GRPC_KINDS = (
    Kind(name="gRPC: random message", send=_random_message, weight=2, never=_MAY_BE_VALID),
    Kind(name="gRPC: nested message", send=_nested_message, never=_MAY_BE_VALID),
    Kind(name="gRPC: valid message with changes", send=_changed_message, weight=3, never=_MAY_BE_VALID),
    Kind(name="gRPC: packed message", send=_packed_message, weight=0.5, never=frozenset({"OK", "no answer"})),
    Kind(name="gRPC: 200 MB", send=_huge_message, weight=0.0005, never=_MAY_BE_VALID),
    Kind(name="gRPC: random frames", send=_random_frames, never=frozenset()),
    Kind(name="gRPC: calls left by the hundred", send=_left_streams, weight=0.05, never=frozenset()),
    Kind(name="gRPC: no HTTP/2", send=_bad_preface, never=frozenset()),
)
