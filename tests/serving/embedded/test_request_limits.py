"""What a request can do to the embedded server: be refused, whoever sends it. A server of each kind must live on."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from benchmarks.fault_clients import SERVED_WITH
from benchmarks.fault_requests import PIXELS, infer_body, valid_message
from benchmarks.hostile import hostile_load

from resx.errors import MissingCapability
from resx.repository.versions import Repository
from resx.serving.client.address import CONTROL_HEADER
from resx.serving.client.loopback import LOOPBACK
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.rollback import undeploy
from resx.serving.embedded.installation.native_backend import missing_for_native
from resx.serving.embedded.installation.triton_installation import missing_for_install
from resx.serving.embedded.patches import request_limits
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import KEY
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.assembler import assemble, listing
from tests.support.running_triton import RunningTriton, current
from tests.support.tiny_models import publish_tiny

INFER = "/v2/models/tiny/infer"
ENDPOINTS = (
    INFER, "/v2/models/tiny/versions/1/infer", "/v2/models/tiny/generate", "/v2/models/tiny/generate_stream",
    "/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/logging", "/v2/trace/setting",
    "/v2/systemsharedmemory/region/x/register",
)  # fmt: skip
HERE = ("127.0.0.1:{}", "localhost:{}", "[::1]:{}", "localhost", "LOCALHOST:1", "127.0.0.1")
FOREIGN = (
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "[::2]",
    "127.0.0.11", "192.168.0.1:8000", "xlocalhost", "null",
)  # fmt: skip


@pytest.fixture(scope="module", params=["isolated", "native"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    native = request.param == "native"
    if reason := missing_for_install() or (missing_for_native() if native else None):
        pytest.skip(reason)
    repository = Repository(tmp_path_factory.mktemp("limits") / "model_repository")
    publish_tiny(repository, "tiny")
    serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--native"] if native else [])
    yield RunningTriton(repository=repository)
    stop(repository)


@pytest.fixture(autouse=True)
def lives_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test sends, the same process answers an inference afterwards."""
    yield
    if "server" in request.fixturenames:
        running: RunningTriton = request.getfixturevalue("server")
        assert current(running.repository).server_pid == running.state.server_pid
        with running.client("http") as client:
            assert client.infer("tiny", client.interface("tiny"), np.zeros((1, 3, 16, 16), np.uint8)).version == 1


def ask(running: RunningTriton, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Send one request; return status and text of the answer."""
    connection = http.client.HTTPConnection(LOOPBACK, running.state.http_port, timeout=60)
    words = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST" if body else "GET", path, body or None, words)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def peak_bytes(running: RunningTriton) -> int:
    status = Path(f"/proc/{running.state.server_pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.triton
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"inputs":[{"x":[[', b'[{"id":'])
def test_json_of_any_depth_is_refused(server: RunningTriton, opening: bytes) -> None:
    for path in ENDPOINTS:
        status, text = ask(server, path, opening * 1_000_000, Content_Type="text/plain")
        assert (status == 403 and "restricted" in text) or (status == 500 and "failed to parse" in text)
    assert ask(server, INFER, opening * (10_000_000 // len(opening)))[0] == 500


@pytest.mark.triton
def test_json_of_a_depth_that_somebody_means_is_read(server: RunningTriton) -> None:
    data = "[" * 500 + ",".join(["7"] * PIXELS) + "]" * 500
    body = infer_body(data="DATA").replace(b'"DATA"', data.encode())
    status, text = ask(server, INFER, body)
    assert status == 200
    assert len(json.loads(text)["outputs"][0]["data"]) == 10


@pytest.mark.triton
@pytest.mark.parametrize("piece", [b"a", b"a=b&", b"%41", b"="])
def test_a_body_that_says_it_is_a_form_is_a_body_like_any_other(server: RunningTriton, piece: bytes) -> None:
    """libevhtp would read its fields into twice its length of a thread's stack."""
    status, text = ask(
        server, INFER, piece * (60_000_000 // len(piece)), Content_Type="application/x-www-form-urlencoded"
    )
    assert status == 500
    assert "failed to parse the request JSON" in text
    assert ask(server, INFER, infer_body(), Content_Type="application/x-www-form-urlencoded")[0] == 200


@pytest.mark.triton
@pytest.mark.parametrize(
    "shape", [[2**63 - 1, 3, 16, 16], [1, 3, 200_000, 200_000], [2**62, 4, 4, 4], [-1, 3, 16, 16], [1, 3, 2**40, 1]]
)
@pytest.mark.parametrize("datatype", ["UINT8", "FP64", "BYTES"])
def test_a_shape_takes_no_memory_that_its_data_do_not_have(
    server: RunningTriton, shape: list[int], datatype: str
) -> None:
    before = peak_bytes(server)
    status, text = ask(
        server, INFER, infer_body(shape=shape, datatype=datatype, data=["0"] if datatype == "BYTES" else [0])
    )
    assert status in {400, 500}
    assert "error" in json.loads(text)
    assert peak_bytes(server) < before + 2**26


@pytest.mark.triton
@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_or_a_page_from_elsewhere_reaches_neither_models_nor_metrics(server: RunningTriton, host: str) -> None:
    for path in ("/v2", "/v2/models/tiny/config", "/v2/health/live"):
        status, text = ask(server, path, Host=host)
        assert status == 403
        assert "this server answers programs of this machine" in json.loads(text)["error"]
    for origin in (host, f"http://{host}", f"https://{host}"):
        assert ask(server, INFER, infer_body(), Origin=origin, Content_Type="text/plain")[0] == 403
    connection = http.client.HTTPConnection(LOOPBACK, server.state.metrics_port, timeout=60)
    connection.request("GET", "/metrics", headers={"Host": host})
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.triton
@pytest.mark.parametrize("host", HERE)
def test_this_machine_is_answered_by_each_of_its_names(server: RunningTriton, host: str) -> None:
    name = host.format(server.state.http_port)
    assert ask(server, INFER, infer_body(), Host=name)[0] == 200
    assert ask(server, INFER, infer_body(), Host=name, Origin=f"http://{name}")[0] == 200


@pytest.mark.triton
def test_a_request_without_a_name_is_no_pages(server: RunningTriton) -> None:
    with socket.create_connection((LOOPBACK, server.state.http_port), timeout=60) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert b" 200 " in connection.recv(100)


def pour(running: RunningTriton, head: bytes, piece: bytes, times: int) -> bool:
    """Send a head and then pieces; say whether the server closed the connection before the last."""
    with socket.create_connection((LOOPBACK, running.state.http_port), timeout=60) as connection:
        try:
            connection.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\n" + head)
            for _ in range(times):
                connection.sendall(piece)
        except OSError:
            return True
    return False


@pytest.mark.triton
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Content-Length: 1000000000000\r\n\r\n", b" " * 2**20),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + b" " * 2**20 + b"\r\n"),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + b" " * 2**20 + b"\r\n"),
        (b"", b"A: x\r\n" * 10_000),
        (b"", b"A: " + b"x" * 4_000 + b"\r\n"),
        (b"A: ", b"x" * 10_000),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: x\r\n" * 10_000),
    ],
    ids=["body", "chunks", "both", "headers", "long headers", "a header", "trailers"],
)
def test_what_has_no_end_is_ended(server: RunningTriton, head: bytes, piece: bytes) -> None:
    before = peak_bytes(server)
    assert pour(server, head, piece, 100_000_000 // min(len(piece), 2**20) if len(piece) < 2**20 else 300)
    assert peak_bytes(server) < before + 3 * request_limits.REQUEST_BYTES


@pytest.mark.triton
def test_a_connection_may_carry_more_than_a_request_may(server: RunningTriton) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, server.state.http_port, timeout=60)
    for _ in range(4):
        connection.request("POST", INFER, infer_body() + b" " * (request_limits.REQUEST_BYTES // 2))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


@pytest.mark.triton
def test_who_has_the_key_may_send_a_large_model(server: RunningTriton) -> None:
    key = (Path(server.state.log).parent / KEY).read_text()
    body = b'{"parameters":{"x":"' + b"A" * (2 * request_limits.REQUEST_BYTES) + b'"}}'
    status, text = ask(server, "/v2/repository/models/nothing/load", body, **{CONTROL_HEADER: key})
    assert status == 500
    assert "creating Triton parameter" in json.loads(text)["error"]  # it was read to its end
    assert pour(server, f"Content-Length: {len(body)}\r\n\r\n".encode(), body, 1)


@pytest.mark.triton
def test_chunks_of_a_byte_take_no_more_memory_than_their_bytes(server: RunningTriton) -> None:
    """Each took a buffer of its own, of a kilobyte."""
    before = peak_bytes(server)
    with socket.create_connection((LOOPBACK, server.state.http_port), timeout=60) as connection:
        connection.sendall(
            b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for byte in infer_body():
            connection.sendall(b"1\r\n%c\r\n" % byte)
        for _ in range(50):
            connection.sendall(b"1\r\n \r\n" * 10_000)
        connection.sendall(b"0\r\n\r\n")
        assert b" 200 " in connection.recv(100)
    assert peak_bytes(server) < before + 2**26


@pytest.mark.triton
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_nothing_packed_is_unpacked(server: RunningTriton, encoding: str) -> None:
    packed = zlib.compress(bytes(300_000_000), 9)
    before = peak_bytes(server)
    for path in ENDPOINTS[:4]:
        assert ask(server, path, packed, Content_Encoding=encoding)[0] in {400, 501}
    assert peak_bytes(server) < before + 2**26


@pytest.mark.triton
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_nothing_packed_is_unpacked_over_grpc(server: RunningTriton, compression: grpc.Compression) -> None:
    before = peak_bytes(server)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"{LOOPBACK}:{server.state.grpc_port}", options=options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert call(valid_message(), timeout=60)
        with pytest.raises(grpc.RpcError) as refused:
            call(bytes(300_000_000), timeout=60, compression=compression)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert peak_bytes(server) < before + 2**26


@pytest.mark.triton
@pytest.mark.parametrize("native", [False, True], ids=["isolated", "native"])
def test_thousands_of_hostile_requests_cost_no_healthy_one(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    if reason := missing_for_install() or (missing_for_native() if native else None):
        pytest.skip(reason)
    monkeypatch.setattr("benchmarks.fault_clients.SERVED_WITH", [*SERVED_WITH, *(["--native"] if native else [])])
    outcome = hostile_load(3_000, seed=int(native), num_idle=100)
    assert outcome.missed == ()
    assert outcome.sent == 3_000
    assert outcome.healthy > 10


@pytest.mark.triton
def test_a_thousand_answers_of_the_cache_at_once_all_arrive_and_keep_no_model_loaded(server: RunningTriton) -> None:
    """Triton hands each to an HTTP thread through a socket that holds 278, and dropped the others."""
    publish_tiny(server.repository, "cached")
    config = server.repository.root / "cached" / "config.pbtxt"
    config.write_text(config.read_text() + "response_cache { enable: true }\n")
    body = infer_body()
    head = f"POST /v2/models/cached/infer HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {len(body)}\r\n\r\n"
    with server.client() as client, contextlib.ExitStack() as stack:
        deploy(client, server.repository, "cached")
        assert ask(server, "/v2/models/cached/infer", body)[0] == 200
        sockets = [
            stack.enter_context(socket.create_connection((LOOPBACK, server.state.http_port), timeout=60))
            for _ in range(1000)
        ]
        os.kill(server.state.server_pid, signal.SIGSTOP)  # so that all of them are there when it goes on
        try:
            for connection in sockets:
                connection.sendall(head.encode() + body)
        finally:
            os.kill(server.state.server_pid, signal.SIGCONT)
        assert {connection.recv(12) for connection in sockets} == {b"HTTP/1.1 200"}
        assert undeploy(client, server.repository, "cached") == [1]


def pinned_program() -> bytearray:
    """Return what the program has in the places that are changed, and zeros elsewhere."""
    content = bytearray(request_limits.CODE_AT + len(request_limits.CODE) + 100)
    for at, before, _ in request_limits.edits():
        content[at : at + len(before)] = before
    return content


def test_only_the_pinned_program_is_changed_and_only_in_the_listed_places(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    original = pinned_program()
    program.write_bytes(original)
    request_limits.limit_requests(program)
    changed = program.read_bytes()
    listed = {at + index for at, before, _ in request_limits.edits() for index in range(len(before))}
    assert len(changed) == len(original)
    assert {index for index, byte in enumerate(changed) if byte != original[index]} <= listed
    with pytest.raises(MissingCapability, match="from a different wheel"):
        request_limits.limit_requests(program)


def test_the_instructions_are_those_of_the_listing(tmp_path: Path) -> None:
    code, places = assemble("request_limits.s", request_limits.CODE_AT, "depth", tmp_path)
    assert code == request_limits.CODE
    assert {label: places[label] for label in request_limits.LABELS} == request_limits.LABELS
    for name in ("REQUEST_BYTES", "HEADER_BYTES", "JSON_STACK_BYTES"):
        (written,) = re.findall(rf"cmp .*, (0x\w+) +# .*{name}$", listing("request_limits.s"), re.MULTILINE)
        assert int(written, 16) == getattr(request_limits, name)
