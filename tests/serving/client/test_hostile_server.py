"""A broken or hostile server gets one line, soon, and little memory: never a traceback, never a wrong figure."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from resx.errors import MissingCapability, ServerError, UsageError
from resx.repository.interface import Interface
from resx.serving.client.address import parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.health import medians_ms
from resx.serving.client.server_errors import WrongAnswer
from tests.support.hostile_server import (
    CLASSES,
    CONFIG,
    CONFIGS,
    LOGITS,
    TENSORS,
    TRANSPORT,
    WORDS,
    answer,
    classes,
    hostile,
    hostile_grpc,
    inference,
)

INTERFACE = Interface(
    input_name="image",
    input_type="UINT8",
    output_name="logits",
    num_classes=10,
    input_dims=(3, 8, 8),
    max_batch_size=4,
    parameters={},
)
ONE = np.zeros((1, 3, 8, 8), np.uint8)
Run = Callable[..., tuple[int, str, str]]


COMMANDS: dict[str, tuple[str, ...]] = {
    "query": ("query", "m", "p.png"),
    "predict": ("predict", "m", "p.png", "-o", "o.csv", "--retries", "0"),
    "bench": ("bench", "m", "--concurrency", "1", "--duration", "0.2", "--warmup", "0"),
    "status": ("status",),
    "plan": ("plan", "m", "--rate", "10", "--slo", "p99=50ms"),
    "undeploy": ("undeploy", "m"),
    "rollback": ("rollback", "m"),
    "deploy": ("deploy", "m"),
}


@contextlib.contextmanager
def client_of(url: str, *, timeout_s: float = 30) -> Iterator[TritonClient]:
    with TritonClient(parse_address(url, None), timeout_s=timeout_s) as client:
        yield client


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, in an empty folder with an image; whatever it raises but its exit fails a test."""
    from resx.cli.main import main

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), (10, 200, 30)).save("p.png")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["resx", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return command


def is_one_line(err: str) -> bool:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    return len(lines) == 1 and "Traceback" not in err and len(lines[0]) < 3000


@pytest.mark.parametrize("name", TRANSPORT)
def test_an_answer_without_end_or_form_is_given_up(name: str) -> None:
    begun = time.monotonic()
    with hostile(everything=TRANSPORT[name]) as server, client_of(server.url, timeout_s=0.5) as client:
        with pytest.raises((ServerError, MissingCapability)):
            client.server_version()
        with pytest.raises((ServerError, MissingCapability)):
            client.interface("m")
        with pytest.raises((ServerError, MissingCapability)):
            client.infer("m", INTERFACE, ONE)
        with pytest.raises((ServerError, MissingCapability)):
            client.load("m")
    assert time.monotonic() - begun < 600  # and not for ever


@pytest.mark.parametrize("name", WORDS)
def test_words_of_the_wrong_form_are_refused(name: str) -> None:
    asked: list[tuple[str, Callable[[TritonClient], object]]] = [
        ("config", lambda client: client.interface("m")),
        ("stats", lambda client: client.statistics("m")),
        ("index", lambda client: client.model_versions()),
        ("", lambda client: client.server_version()),
    ]
    harmless = {("stats", "an empty object"), ("stats", "a key twice"), ("index", "an empty object")}
    for word, ask in asked:
        with hostile(**{word or "everything": WORDS[name]}) as server, client_of(server.url) as client:
            if (word, name) in harmless:
                continue
            with pytest.raises((ServerError, MissingCapability)):
                ask(client)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_cannot_be_is_refused_before_memory_is_taken(name: str, run: Run) -> None:
    with hostile(config=CONFIGS[name]) as server:
        for command in (COMMANDS["query"], COMMANDS["predict"]):
            code, out, err = run(*command, "--url", server.url)
            assert code in (1, 2)
            assert "nan" not in out
            assert is_one_line(err)


@pytest.mark.parametrize("name", TENSORS)
def test_logits_that_are_not_those_asked_for_are_refused(name: str) -> None:
    with (
        hostile(infer=TENSORS[name]) as server,
        client_of(server.url) as client,
        pytest.raises(WrongAnswer, match="m answered"),
    ):
        client.infer("m", INTERFACE, ONE)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_are_not_those_asked_for_are_refused(name: str, run: Run) -> None:
    with hostile(infer=CLASSES[name]) as server:
        code, out, err = run("query", "m", "p.png", "--url", server.url)
    assert code == 1
    assert out == ""
    assert "nan%" not in err
    assert is_one_line(err)


def test_a_right_answer_is_taken(run: Run) -> None:
    with hostile() as server:
        code, out, _ = run("query", "m", "p.png", "--url", server.url, "--json")
    assert code == 0
    assert [one["label"] for one in json.loads(out)["images"][0]["top"]] == ["c0", "c1", "c2", "c3", "c4"]


SOME = ("null", "wrong types", "deep", "a web page", "headers without end", "a blank now and then")


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_one_line(command: str, name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_TIMEOUT_S", "1")
    Path("model_repository/m/1").mkdir(parents=True)
    Path("model_repository/m/1/model.onnx").touch()
    Path("model_repository/m/config.pbtxt").write_text('name: "m"\nbackend: "onnxruntime"\n')
    with hostile(everything=(WORDS | TRANSPORT)[name]) as server:
        code, out, err = run(*COMMANDS[command], "--url", server.url)
    assert code in (1, 3, 4) or (code == 2 and command in ("rollback", "undeploy", "plan"))
    assert out == ""
    assert is_one_line(err)


def test_predict_writes_an_error_into_the_row_that_is_missing_and_goes_on(run: Run) -> None:
    Path("images").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (255 * (number == 1), 0, 0)).save(f"images/{number}.png")

    def without_red(connection: socket.socket, body: bytes) -> None:
        """Drop the rows of red images, as a model could."""
        request, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        if "classification" in str(request["outputs"]):
            connection.sendall(classes(*range(10)))
            return
        images = np.frombuffer(body[end:], np.uint8).reshape(request["inputs"][0]["shape"])
        num_rows = int((images[:, 0].max(axis=(1, 2)) < 255).sum())
        connection.sendall(inference(LOGITS.tobytes() * num_rows, num_rows))

    with hostile(infer=without_red) as server:
        code, _, err = run("predict", "m", "images", "-o", "o.jsonl", "--url", server.url, "--retries", "0")
    assert code == 0, err
    rows = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "a tensor [0, 10] for 1 rows" in rows[1]["error"]


def test_predict_writes_an_error_into_every_row_that_is_not_finite(run: Run) -> None:
    def not_finite(connection: socket.socket, body: bytes) -> None:
        request, _ = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        if "classification" in str(request["outputs"]):
            connection.sendall(classes(*range(10)))
        else:
            connection.sendall(inference(np.full(10, np.nan, np.float32).tobytes()))

    with hostile(infer=not_finite) as server:
        code, _, err = run("predict", "m", "p.png", "-o", "o.jsonl", "--url", server.url, "--retries", "0")
    assert code == 1
    assert "not finite" in err


BENCH = ("bench", "m", "--concurrency", "2", "--duration", "0.5", "--warmup", "0", "--processes", "1", "--json")


@pytest.mark.parametrize("name", ["chunks without end", "headers without end", "a huge length", "a length of letters"])
def test_a_load_counts_what_has_no_end_as_failures(name: str, run: Run) -> None:
    asked = 0

    def after_the_first(connection: socket.socket, body: bytes) -> None:
        nonlocal asked
        asked += 1
        say = TRANSPORT[name] if asked > 2 else inference(LOGITS.tobytes())
        if callable(say):
            say(connection, body)
        else:
            connection.sendall(say)
            connection.shutdown(socket.SHUT_RDWR)

    with hostile(infer=after_the_first) as server:
        code, out, err = run(*BENCH, "--url", server.url)
    assert "Traceback" not in err
    measured = json.loads(out)["measurements"][0]
    assert code in (0, 1, 3)
    assert measured["requests"] == 0
    assert measured["failed"] > 0
    assert measured["invalid"]


@pytest.mark.parametrize(
    "text",
    [
        b'nv_inference_request_summary_us{model="m",version="1",quantile="0.5"} many\n',
        b'nv_inference_request_summary_us{model="m",version="one",quantile="0.5"} 5\n',
        b'nv_inference_request_summary_us{model="m",version="1",quantile="0.5"} inf\n',
        b"\xff\xfe",
        b"",
    ],
)
def test_metrics_that_are_none_are_no_medians(text: bytes) -> None:
    with hostile(metrics=answer(text)) as server:
        assert medians_ms(int(server.url.rpartition(":")[2])) == {}


def test_metrics_without_end_are_given_up() -> None:
    with hostile(metrics=TRANSPORT["chunks without end"]) as server:
        assert medians_ms(int(server.url.rpartition(":")[2])) == {}


def tensor(**changes: Any) -> bytes:
    """Return a ModelInferResponse with one tensor, changed."""
    fields = {"name": "logits", "datatype": "FP32", "shape": [1, 10]} | changes
    raw = fields.pop("raw", LOGITS.tobytes())
    message = service_pb2.ModelInferResponse(model_name="m", model_version=fields.pop("version", "1"))
    message.outputs.add(**fields)
    message.raw_output_contents.append(raw)
    return bytes(message.SerializeToString())


GRPC_TENSORS = {
    "nothing": b"", "not protobuf": b"\xff" * 50, "another output": tensor(name="other"),
    "no version": tensor(version=""),
    "a type that is none": tensor(datatype="FP4"), "three of ten": tensor(shape=[1, 3], raw=LOGITS[:3].tobytes()),
    "no rows": tensor(shape=[0, 10], raw=b""), "a negative shape": tensor(shape=[-1, 10]),
    "a huge shape": tensor(shape=[2**62, 2**62]), "less than the shape": tensor(raw=b"abc"),
    "more than is read": tensor(raw=bytes(70 * 2**20)),
}  # fmt: skip


@pytest.mark.parametrize("name", GRPC_TENSORS)
def test_logits_over_grpc_that_are_not_those_asked_for_are_refused(name: str) -> None:
    content = GRPC_TENSORS[name]
    with (
        hostile_grpc(ModelInfer=lambda _request, _context: content) as url,
        client_of(url) as client,
        pytest.raises(WrongAnswer),
    ):
        client.infer("m", INTERFACE, ONE)


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"\x0a\x03\x0a\x01\xff"])
def test_a_configuration_over_grpc_that_is_none_is_refused(content: bytes) -> None:
    with (
        hostile_grpc(ModelConfig=lambda _request, _context: content) as url,
        client_of(url) as client,
        pytest.raises(WrongAnswer),
    ):
        client.interface("m")


def test_a_compressed_answer_over_grpc_is_not_unpacked() -> None:
    def bomb(_request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return tensor(raw=bytes(2**24))

    with (
        hostile_grpc(ModelInfer=bomb) as url,
        client_of(url) as client,
        pytest.raises(WrongAnswer),
    ):
        client.infer("m", INTERFACE, ONE)


def test_a_server_that_never_ends_its_answer_over_grpc_is_given_up() -> None:
    def sleep(_request: bytes, _context: Any) -> bytes:
        time.sleep(3)
        return b""

    with (
        hostile_grpc(ModelConfig=sleep) as url,
        client_of(url, timeout_s=0.5) as client,
        pytest.raises(ServerError, match=r"0\.5 s"),
    ):
        client.interface("m")


def test_the_environment_ends_an_answer_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_TIMEOUT_S", "0.2")
    begun = time.monotonic()
    with (
        hostile(everything=TRANSPORT["a blank now and then"]) as server,
        client_of(server.url, timeout_s=900) as client,
    ):
        with pytest.raises(MissingCapability):
            client.server_version()
        assert time.monotonic() - begun < 600  # and not what the caller allows
    monkeypatch.setenv("RESX_TIMEOUT_S", "soon")
    with pytest.raises(UsageError, match="RESX_TIMEOUT_S=soon"), client_of("http://127.0.0.1:1"):
        pass


def test_an_idle_connection_that_the_server_closed_is_opened_again() -> None:
    def and_close(connection: socket.socket, _body: bytes) -> None:
        connection.sendall(answer(CONFIG, headers={"Connection": "keep-alive"}))
        connection.shutdown(socket.SHUT_RDWR)

    with hostile(config=and_close) as server, client_of(server.url) as client:
        assert client.interface("m") == client.interface("m") == INTERFACE


def test_what_nobody_asked_for_is_not_taken_for_the_next_answer() -> None:
    twice = answer(CONFIG, headers={"Connection": "keep-alive"}) + answer(b"null")
    with hostile(config=twice) as server, client_of(server.url) as client:
        assert client.interface("m") == client.interface("m") == INTERFACE
