"""A server that says whatever a test wants: right answers over HTTP or gRPC, but for those that a case replaces.

It serves one model, `m`: images UINT8 [3, 8, 8], four at most, ten classes. A case is a raw answer to the
paths (or the gRPC method) that a word stands in: bytes as they go over the wire, or what writes to the socket, given
the request's body.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, TypeAlias

import numpy as np

Say: TypeAlias = "bytes | Callable[[socket.socket, bytes], None]"

CONFIG: dict[str, Any] = {
    "name": "m",
    "platform": "onnxruntime_onnx",
    "backend": "onnxruntime",
    "max_batch_size": 4,
    "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [3, 8, 8]}],
    "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}],
}
STATISTICS: dict[str, Any] = {
    "model_stats": [
        {
            "name": "m",
            "version": "1",
            "inference_count": 3,
            "execution_count": 3,
            "inference_stats": {"success": {"count": 3, "ns": 3_000_000}, "fail": {"count": 0, "ns": 0}},
        }
    ]
}
LOGITS = np.arange(10, dtype=np.float32)


def answer(body: Any, *, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole answer in HTTP; what is not bytes becomes JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {"Connection": "close"} | dict(headers or {})
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in found.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


def inference(content: bytes, num_rows: int = 1, num_binary: int | None = None, **changes: Any) -> bytes:
    """Return an inference's answer of one tensor, with changed fields."""
    size = len(content) if num_binary is None else num_binary
    tensor = {
        "name": "logits",
        "datatype": "FP32",
        "shape": [num_rows, 10],
        "parameters": {"binary_data_size": size},
    } | changes
    head = json.dumps({"model_name": "m", "model_version": "1", "outputs": [tensor]}).encode()
    return answer(head + content, headers={"Inference-Header-Content-Length": str(len(head))})


def strings(*texts: str) -> bytes:
    """Return texts as a tensor of BYTES holds them."""
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def classes(*logits: float | str) -> bytes:
    """Return an answer of the classification extension with these logits."""
    content = strings(*(f"{logit}:{index}:c{index}" for index, logit in enumerate(logits)))
    return inference(content, datatype="BYTES", shape=[1, len(logits)])


def without_end(head: bytes, piece: bytes) -> Callable[[socket.socket, bytes], None]:
    """Return what sends a piece again and again."""

    def send(connection: socket.socket, _body: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return send


def slowly(head: bytes) -> Callable[[socket.socket, bytes], None]:
    """Return what sends a blank now and then."""

    def send(connection: socket.socket, _body: bytes) -> None:
        connection.sendall(head)
        while True:
            time.sleep(0.05)
            connection.sendall(b" ")

    return send


_MIB = b"x" * 2**20
TRANSPORT: dict[str, Say] = {
    "chunks without end": without_end(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + _MIB + b"\r\n"
    ),
    "small chunks without end": without_end(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 9999
    ),
    "headers without end": without_end(b"HTTP/1.1 200 OK\r\n", b"A: xxx\r\n" * 4096),
    "a header without end": without_end(b"HTTP/1.1 200 OK\r\nA: ", _MIB),
    "no end of interim answers": without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 4096),
    "a body without length or end": without_end(b"HTTP/1.1 200 OK\r\n\r\n", _MIB),
    "a blank now and then": slowly(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "a header now and then": slowly(b"HTTP/1.1 200 OK\r\nA:"),
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{}",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "a length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n{}",
    "less than it said": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk of a negative size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n",
    "a chunk of a terabyte": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n{}",
    "a gzip bomb": answer(gzip.compress(b"[" * 2**24), headers={"Content-Encoding": "gzip"}),
    "a redirect": answer(b"", status="302 Found", headers={"Location": "http://192.0.2.1/"}),
    "a web page": answer(b"<!DOCTYPE html><title>welcome</title>", headers={"Content-Type": "text/html"}),
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "an error that is a list": answer([1], status="400 Bad Request"),
    "an error that is a number": answer({"error": 5}, status="500 Oh"),
    "an error of a megabyte": answer({"error": "x" * 2**20}, status="500 Oh"),
}
"""Answers that are wrong whatever was asked."""

WORDS: dict[str, Say] = {
    name: answer(body)
    for name, body in {
        "null": None,
        "a list": [1, 2],
        "a text": "config",
        "a number": 7,
        "an empty object": {},
        "wrong types": {"input": 1, "output": {"a": 2}, "model_stats": "x", "extensions": 3, "version": []},
        "rows of null": {"model_stats": [None], "input": [None], "output": [None], "version": None},
        "no JSON": b"{,}",
        "deep": b"[" * 100_000,
        "bytes that are no UTF-8": b'{"name": "\xff\xfe"}',
        "a key twice": b'{"input": [], "input": [], "version": "1", "version": "2"}',
        "no number": b'{"max_batch_size": NaN, "model_stats": NaN, "version": Infinity}',
        "a huge number": b'{"max_batch_size": ' + b"9" * 5000 + b"}",
    }.items()
}
"""Answers that are wrong where a configuration, an index, statistics or metadata were asked for."""

CONFIGS: dict[str, Say] = {
    name: answer(CONFIG | change)
    for name, change in {
        "no input": {"input": []},
        "no output": {"output": []},
        "no dims": {"input": [{"name": "image"}]},
        "an open size": {"input": [CONFIG["input"][0] | {"dims": [3, -1, -1]}]},
        "huge dims": {"input": [CONFIG["input"][0] | {"dims": [3, 2**40, 2**40]}]},
        "large images": {"input": [CONFIG["input"][0] | {"dims": [3, 30_000, 30_000]}]},
        "a negative dim": {"input": [CONFIG["input"][0] | {"dims": [3, -7, 8]}]},
        "classes without end": {"output": [CONFIG["output"][0] | {"dims": [2**31, 2**31]}]},
        "no classes": {"output": [CONFIG["output"][0] | {"dims": [0]}]},
        "a huge batch": {"max_batch_size": 2**31 - 1},
        "a fixed huge batch": {
            "max_batch_size": 0,
            "input": [CONFIG["input"][0] | {"dims": [2**30, 3, 8, 8]}],
            "output": [CONFIG["output"][0] | {"dims": [2**30, 10]}],
        },
        "a strange type": {"input": [CONFIG["input"][0] | {"data_type": "TYPE_STRING"}]},
        "a resize of words": {"parameters": {"resx.resize": {"string_value": "wide"}}},
        "a resize without end": {"parameters": {"resx.resize": {"string_value": "9" * 5000}}},
        "scaling of words": {
            "input": [CONFIG["input"][0] | {"data_type": "TYPE_FP32"}],
            "parameters": {"resx.mean": {"string_value": "a,b,c"}, "resx.std": {"string_value": "1,1,1"}},
        },
    }.items()
}
"""Configurations of a model that cannot be."""

TENSORS: dict[str, Say] = {
    "null": answer(None),
    "a list": answer([]),
    "no outputs": answer({"model_version": "1"}),
    "outputs of null": answer({"model_version": "1", "outputs": [None]}),
    "another output": inference(LOGITS.tobytes(), name="other"),
    "no version": answer({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": [0.5] * 10}]}),
    "no shape": inference(LOGITS.tobytes(), shape=None),
    "a negative shape": inference(LOGITS.tobytes(), shape=[-1, -10]),
    "a huge shape": inference(LOGITS.tobytes(), shape=[2**40, 2**40]),
    "no rows": inference(b"", 0),
    "two rows for one": inference(LOGITS.tobytes() * 2, 2),
    "three of ten": inference(LOGITS[:3].tobytes(), shape=[1, 3]),
    "less than the shape": inference(LOGITS[:3].tobytes()),
    "more than there is": inference(LOGITS[:3].tobytes(), num_binary=40),
    "a negative size": inference(LOGITS.tobytes(), num_binary=-40),
    "a type that is none": inference(LOGITS.tobytes(), datatype="FP4"),
    "a type of null": inference(LOGITS.tobytes(), datatype=None),
    "strings for numbers": inference(strings("a", "b"), datatype="BYTES"),
    "a header longer than all": answer(b"{}", headers={"Inference-Header-Content-Length": "99999999999"}),
    "a header of words": answer(b"{}", headers={"Inference-Header-Content-Length": "many"}),
    "data of words": answer({"model_version": "1", "outputs": [
        {"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": ["a"] * 10}
    ]}),
    "rows of several lengths": answer({"model_version": "1", "outputs": [
        {"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": [[1.0], [2.0, 3.0]]}
    ]}),
}  # fmt: skip
"""Answers that are wrong where logits were asked for."""

CLASSES: dict[str, Say] = {
    "three of ten": classes(3.0, 2.0, 1.0),
    "NaN": classes(*["nan"] * 10),
    "infinity": classes("inf", *range(9)),
    "words": classes(*["one"] * 10),
    "a class twice": inference(strings(*["1.0:3:c"] * 10), datatype="BYTES"),
    "a class beyond": inference(strings(*[f"1.0:{index + 5}:c" for index in range(10)]), datatype="BYTES"),
    "a string beyond its tensor": inference(struct.pack("<I", 2**31) + b"x", datatype="BYTES"),
    "numbers for strings": inference(LOGITS.tobytes()),
}
"""Answers that are wrong where classes were asked for."""


class HostileServer:
    """Over HTTP; right but for `cases`, by a word of the path: config, infer, stats, index, or nothing for all."""

    def __init__(self, cases: Mapping[str, Say]) -> None:
        self._cases = cases
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._listening.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with contextlib.suppress(OSError), connection:
            while request := _read_request(connection):
                path, body = request
                say = next((say for word, say in self._cases.items() if word in path), None)
                if callable(say):
                    say(connection, body)
                elif say is not None:
                    connection.sendall(say)
                    return
                else:
                    connection.sendall(_right_answer(path, body).replace(b"Connection: close\r\n", b""))
        self._open.discard(connection)


def _read_request(connection: socket.socket) -> tuple[str, bytes] | None:
    received = b""
    while b"\r\n\r\n" not in received:
        if not (piece := connection.recv(2**16)):
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0]):
        body += connection.recv(2**16)
    return head.split(b" ")[1].decode(), body


def _right_answer(path: str, body: bytes) -> bytes:
    if path.endswith("/config"):
        return answer(CONFIG)
    if path.endswith("/stats"):
        return answer(STATISTICS)
    if path.endswith("/index"):
        return answer([{"name": "m", "version": "1", "state": "READY", "reason": ""}])
    if path.endswith("/infer"):
        num_rows = json.JSONDecoder().raw_decode(body.decode("latin-1"))[0]["inputs"][0]["shape"][0]
        if b'"classification"' in body:
            return classes(*map(float, reversed(range(10))))
        return inference(LOGITS.tobytes() * num_rows, num_rows)
    return answer({"name": "triton", "version": "2.51.0", "extensions": ["classification"]})


@contextlib.contextmanager
def hostile(**cases: Say) -> Iterator[HostileServer]:
    """Run a server that is right but for these cases; `everything` stands for every path."""
    server = HostileServer({"" if word == "everything" else word: say for word, say in cases.items()})
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def hostile_grpc(**methods: Callable[[bytes, Any], bytes]) -> Iterator[str]:
    """Run a gRPC server whose methods return these bytes; others do not exist. Gives its URL.

    Answers are compressed where the method's context says so.
    """
    import grpc

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: Any) -> Any:
            method = methods.get(call.method.rpartition("/")[2])
            return method and grpc.unary_unary_rpc_method_handler(method)

    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        handlers=[Handler()],
        options=[("grpc.max_send_message_length", -1)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None)
