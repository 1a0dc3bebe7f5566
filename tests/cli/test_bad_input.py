"""What users get wrong: one line on stderr, the right exit code, nothing half done."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.command import Finished, refused
from tests.support.running_triton import RunningTriton

Resx = Callable[..., Finished]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "resnt50"], ["'resnt50'", "resnet50"]),
        (["export", "../x"], ["not a run"]),
        (["export", "resnet20", "--name", "../x"], ["'../x'", "letters, digits"]),
        (["export", "resnet20", "--input", "int8"], ["--input int8", "uint8, float32"]),
        (["export", "resnet20", "--max-batch", "0"], ["--max-batch"]),
        (["export"], ["SOURCE is missing"]),
        (["train", "resnet20", "--data", "digitz", "-o", "r"], ["'digitz'"]),
        (["train", "resnet20", "--survival", "0", "-o", "r"], ["survival=0", "(0, 1]"]),
        (["train", "resnet20", "--survival", "1.5", "-o", "r"], ["survival=1.5"]),
        (["train", "nosuch", "-o", "r"], ["'nosuch'"]),
        (["train", "resnet20", "--resume", "-o", "r"], ["no run to resume"]),
        (["info", "resnt50"], ["resnet50"]),
        (["info", "none.onnx"], ["none.onnx", "no such file"]),
        (["deploy", "nosuch"], ["nosuch", "model_repository"]),
        (["deploy", "../x"], ["'../x'"]),
        (["query", "m", "none.png"], ["none.png", "no such file"]),
        (["query", "m", "text.png"], ["text.png", "not an image"]),
        (["query", "m", "ok.png", "--protocol", "ftp"], ["--protocol ftp", "grpc, http"]),
        (["query", "m", "ok.png", "--url", "ftp://x:1"], ["--url ftp://x:1"]),
        (["bench", "m", "--concurrency", "a"], ["--concurrency a"]),
        (["bench", "m", "--concurrency", "0"], ["concurrency=0"]),
        (["bench", "m", "--duration", "0"], ["duration_s=0"]),
        (["serve", "--load", "a", "--load-none"], ["--load"]),
        (["nonsense"], ["nonsense"]),
        (["models", "--jsn"], ["--jsn"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    resx: Resx, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (4, 4)).save(tmp_path / "ok.png")
    refused(resx(*arguments), 2, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ok.png", "text.png"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_server_is_exit_code_4_with_the_remedy(resx: Resx, tmp_path: Path, protocol: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "ok.png")
    for arguments in (["query", "m", "ok.png"], ["bench", "m"], ["status"]):
        refused(resx(*arguments, "--url", f"{protocol}://127.0.0.1:9"), 4, "no server answers", "resx serve")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_another_server_on_the_port_is_told_from_triton(resx: Resx, protocol: str) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for arguments in (["bench", "m"], ["status"]):
                done = resx(*arguments, "--url", f"{protocol}://127.0.0.1:{server.server_port}")
                refused(done, 4, "not a Triton server", "--url")
        finally:
            server.shutdown()


@pytest.mark.triton
def test_the_other_protocols_port_is_told_from_triton(resx: Resx, triton: RunningTriton) -> None:
    for url in (f"http://127.0.0.1:{triton.state.grpc_port}", f"grpc://127.0.0.1:{triton.state.http_port}"):
        refused(resx("status", "--url", url), 4, "not a Triton server", "--protocol")


def test_a_checkpoint_that_is_missing_truncated_or_of_another_network_is_named(resx: Resx, tmp_path: Path) -> None:
    import torch

    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:100])
    (tmp_path / "short.safetensors").write_bytes(b"\x10\x00\x00")
    refused(resx("export", "resnet20", "--weights", "none.pth"), 2, "none.pth: no such file")
    refused(resx("export", "resnet20", "--weights", "short.pth"), 2, "short.pth: truncated")
    refused(resx("export", "resnet20", "--weights", "short.safetensors"), 2, "short.safetensors: truncated")
    refused(resx("export", "resnet20", "--weights", "other.pth"), 2, "missing (conv1.weight", "1 unknown (conv.weight)")
    assert not (tmp_path / "model_repository").exists() or not list((tmp_path / "model_repository").iterdir())


def test_a_miss_of_the_bar_is_exit_code_3_and_publishes_nothing(resx: Resx, tmp_path: Path) -> None:
    refused(resx("export", "resnet20", "--atol", "1e-30", "-q"), 3, "differs from its source", "--no-verify")
    assert list((tmp_path / "model_repository").iterdir()) == []


def test_ctrl_c_in_an_export_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resx", "export", "resnet110"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "Folded" in line)  # the source runs next
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err
    assert out == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", ["models --json", "export --help", "--help"])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, command: str) -> None:
    script = f"{sys.executable} -m resx {command} | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_json_is_one_object_and_nothing_else(resx: Resx) -> None:
    for arguments in (["models"], ["info", "resnet50"], ["doctor"]):
        done = resx(*arguments, "--json")
        assert done.code == 0
        assert done.err == ""
        assert isinstance(json.loads(done.out), dict)


def test_doctor_gives_a_remedy_for_everything_that_is_missing(resx: Resx) -> None:
    checks = resx("doctor", "--json").json["checks"]
    names = [check["what"] for check in checks]
    for name in (
        "Python",
        "torch",
        "onnxruntime",
        "openvino",
        "tensorrt",
        "embedded Triton",
        "C++ compiler",
        "GPU",
        "Docker",
        "port 8000",
        "disk",
    ):
        assert name in names
    for check in checks:
        assert check["found"] or check["remedy"], check


def test_doctor_sees_a_taken_port(resx: Resx) -> None:
    import socket

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8002))
        except OSError:
            pytest.skip("port 8002 is in use by something else on this machine")
        taken.listen()
        port = next(check for check in resx("doctor", "--json").json["checks"] if check["what"] == "port 8002")
    assert not port["found"]
    assert "--metrics-port" in port["remedy"]


def test_a_repository_that_cannot_be_written_is_one_line(resx: Resx, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = resx("export", "resnet20", "--repository", "file/repository", "-q")
    assert done.code in {1, 2}
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
