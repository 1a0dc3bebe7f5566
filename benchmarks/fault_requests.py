"""Requests that no client of good will sends: each is refused, and the server computes as before."""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import grpc
from benchmarks.fault_clients import Row, published, serve
from tests.support.running_triton import MODEL, current, wait_until

from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.served_model import canary
from resx.serving.running.server_state import ServerState

_SEED = 0
PATH = f"/v2/models/{MODEL}/infer"
PIXELS = 3 * 16 * 16
Request = tuple[dict[str, str], bytes]


def hostile(times: int) -> list[Row]:
    """Send each kind of hostile request, and `500 * times` random bodies over http and a tenth over grpc."""
    rows = []
    with published() as (repository, _):
        state = serve(repository)
        kinds: dict[str, Callable[[ServerState], Iterable[str]]] = {
            name: lambda state, requests=requests: [_sent(state, *request) for request in requests]  # type: ignore[misc]
            for name, requests in KINDS.items()
        }
        kinds["hostile: chunked body"] = lambda state: [_chunked(state)]
        kinds["random bodies over http"] = lambda state: _random_http(state, 500 * times)
        kinds["random bodies over grpc"] = lambda state: _random_grpc(state, 50 * times)
        for name, send in kinds.items():
            rows.append(_row(repository, name, current(repository), Counter(send(state))))
    return rows


def _row(repository: Repository, name: str, state: ServerState, counted: Counter[str]) -> Row:
    """Say how requests ended; then the server must be the same one, and answer its canary.

    Triton 2.51 says 500 where it cannot read a request, so every status that is an error counts as refused.
    """
    bad = sum(number for outcome, number in counted.items() if outcome in {"200", "no answer", "UNAVAILABLE"})
    with TritonClient(state.address("grpc"), timeout_s=20) as client:
        wait_until(lambda: current(repository).phase == "serving" and client.is_live(), "it answers")
        canary(client, MODEL, 1, repository.card(MODEL, 1))
    now, ends = current(repository), ", ".join(f"{number} x {outcome}" for outcome, number in sorted(counted.items()))
    bars = {
        f"{bad} were not refused": bad > 0,
        f"the server had to be brought back: {now.last_recovery}": now.server_pid != state.server_pid,
    }
    return Row(
        fault=name,
        times=counted.total(),
        sent=counted.total(),
        lost=0,
        wrong=bad,
        seconds=(),
        note=ends,
        missed=tuple(what for what, true in bars.items() if true),
    )


def _sent(state: ServerState, headers: dict[str, str], body: bytes) -> str:
    """Send one request; return its status, or `gone` where the server closed the connection instead."""
    connection = http.client.HTTPConnection("127.0.0.1", state.http_port, timeout=30)
    try:
        connection.request("POST", PATH, body, headers)
        return str(connection.getresponse().status)
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException):
        return "gone"
    finally:
        connection.close()


def infer_body(**changes: object) -> bytes:
    """Return a request's JSON whose tensor is changed; None takes a member away."""
    tensor: dict[str, object] = {"name": "image", "datatype": "UINT8", "shape": [1, 3, 16, 16], "data": [0] * PIXELS}
    return json.dumps(
        {"inputs": [{key: value for key, value in (tensor | changes).items() if value is not None}]}
    ).encode()


def _binary(size: int, sent: int, header_length: int | None = None) -> Request:
    head = infer_body(data=None, parameters={"binary_data_size": size})
    length = len(head) if header_length is None else header_length
    return {"Inference-Header-Content-Length": str(length)}, head + b"\0" * sent


def _shapes(*shapes: object) -> list[Request]:
    return [({}, infer_body(shape=shape)) for shape in shapes]


def _shared(region: str, size: int, offset: int) -> Request:
    where = {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}
    return {}, infer_body(data=None, parameters=where)


KINDS: dict[str, list[Request]] = {
    "hostile: dtype": [({}, infer_body(datatype=kind)) for kind in ("FP32", "BYTES", "INT64", "nonsense", 7)],
    "hostile: shape": _shapes(
        [], [1], [1, 3, 16], [1, 3, 16, 17], [0, 3, 16, 16], [99, 3, 16, 16], "x", [[1]], [1.5, 3, 16, 16]
    ),
    "hostile: negative and huge dims": _shapes(
        [-1, 3, 16, 16], [1, -3, -16, 16], [2**62, 2**62, 4, 4], [2**70, 1, 1, 1], [2**63 - 1, 3, 16, 16],
        [1, 3, 100_000, 100_000],
    ),
    "hostile: size": [
        ({}, infer_body(data=data)) for data in ([], [0], [0] * 9999, "x", {"a": 1}, [-1] * PIXELS, [1e99] * PIXELS)
    ],
    "hostile: truncated and wrong binary": [
        _binary(PIXELS, 10), _binary(10, 10), _binary(-1, 10), _binary(2**62, 10), _binary(PIXELS, PIXELS, -5),
        _binary(PIXELS, PIXELS, 10**9), _binary(PIXELS, PIXELS, 0), _binary(PIXELS, 10 * PIXELS),
    ],
    "hostile: shared memory that is not there": [
        _shared("none", PIXELS, 0), _shared("", 2**62, 2**62), _shared("../x", -1, -1)
    ],
    "hostile: huge headers": [({"X-Long": "x" * length}, infer_body()) for length in (10_000, 100_000, 1_000_000)],
    "hostile: deep JSON": [
        ({}, opening * depth + closing * depth)
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"), (b"[", b""))
        for depth in (100, 1_000, 10_000, 1_000_000)
    ],
}  # fmt: skip


def _chunked(state: ServerState) -> str:
    """Send a body in chunks, as no inference client does, and break off."""
    with socket.create_connection(("127.0.0.1", state.http_port), timeout=10) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(2_000):
                connection.sendall(b"1\r\n[\r\n")
            connection.sendall(b"0\r\n\r\n")
            return connection.recv(100).split(b" ")[1].decode() if connection else "gone"
        except TimeoutError:
            return "no answer"
        except (OSError, IndexError):
            return "gone"


def _random_http(state: ServerState, number: int) -> Iterator[str]:
    """Send random bytes, and valid requests with random bytes changed; a few of those stay valid."""
    chance = random.Random(_SEED)
    valid = infer_body()
    connection = http.client.HTTPConnection("127.0.0.1", state.http_port, timeout=30)
    for index in range(number):
        headers, body = random_request(chance, valid, binary=index % 4 == 3)
        try:
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            answer.read()
            yield "ok" if answer.status == 200 else str(answer.status)
        except TimeoutError:
            yield "no answer"
            connection.close()
        except (OSError, http.client.HTTPException):
            yield "gone"
            connection.close()
    connection.close()


def random_request(chance: random.Random, valid: bytes, *, binary: bool) -> Request:
    """Return headers and body: sizes that do not fit, random bytes, or a valid request with some bytes changed."""
    if binary:
        headers, body = _binary(chance.randint(-10, 2 * PIXELS), chance.randint(0, 2 * PIXELS))
        return headers, body
    if chance.random() < 0.3:
        return {}, chance.randbytes(chance.randint(0, 2000))
    body = bytearray(valid)
    for _ in range(chance.randint(1, 5)):
        body[chance.randrange(len(body) // 8)] = chance.randrange(256)
    return {}, bytes(body[: chance.randint(1, len(body))] if chance.random() < 0.3 else body)


def _random_grpc(state: ServerState, number: int) -> Iterator[str]:
    """Send random bytes, and a valid message with bytes changed, as ModelInfer's request."""
    chance = random.Random(_SEED)
    valid = valid_message()
    with grpc.insecure_channel(f"127.0.0.1:{state.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(number):
            body = bytearray(valid)
            for _ in range(chance.randint(1, 3)):
                body[chance.randrange(60)] = chance.randrange(256)
            sent = chance.randbytes(chance.randint(0, 500)) if chance.random() < 0.3 else bytes(body)
            try:
                call(sent, timeout=30)
                yield "ok"
            except grpc.RpcError as error:
                yield error.code().name


def valid_message() -> bytes:
    """Return ModelInfer's request with an image, of zeros."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = message.inputs.add(name="image", datatype="UINT8")
    tensor.shape.extend([1, 3, 16, 16])
    message.raw_input_contents.append(bytes(PIXELS))
    return bytes(message.SerializeToString())
