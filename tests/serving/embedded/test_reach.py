"""The server, and whatever else imports onnxruntime, asks nobody outside of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from resx.repository.versions import Repository
from resx.serving.client.loopback import is_loopback
from resx.serving.deployment.deploy import deploy
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

_STEPS = """
set -e
"$PYTHON" -m resx serve --detach --http-port 0 --grpc-port 0 --metrics-port 0 $NATIVE
"$PYTHON" -m resx deploy tiny
"$PYTHON" -m resx query tiny black.png
"$PYTHON" -m resx stop
"""
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


def test_onnxruntime_writes_and_sends_no_reports_of_its_use(tmp_path: Path) -> None:
    """Its wheel does both at its first import: a device id in the home folder is where it begins."""
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    model = repository.version_folder("tiny") / "model.onnx"
    home = tmp_path / "home"
    home.mkdir()
    code = f"import resx, onnxruntime; onnxruntime.InferenceSession({str(model)!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}

    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(home)}, check=True, timeout=300)

    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name]


@pytest.mark.triton
def test_the_server_and_its_stubs_are_told_to_report_nothing(triton: RunningTriton) -> None:
    with triton.client() as client:
        deploy(client, triton.repository, "tiny")  # whatever another test has unloaded
    server = psutil.Process(triton.state.server_pid)
    stubs = server.children()

    assert stubs
    assert all(process.environ()["ORT_DISABLE_TELEMETRY"] == "1" for process in (server, *stubs))


@pytest.mark.slow  # strace stops a process at every call
@pytest.mark.triton
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which shows what is sent, is not installed")
@pytest.mark.parametrize("native", ["", "--native"])
def test_serve_deploy_query_and_stop_reach_loopback_alone(tmp_path: Path, native: str) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "black.png")
    home = tmp_path / "home"  # onnxruntime asks at once where it has not asked before
    home.mkdir()
    cache = os.environ.get("RESX_CACHE") or str(Path.home() / ".cache" / "resx")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(home), "RESX_CACHE": cache, "PYTHON": sys.executable, "NATIVE": native}
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", trace, "sh", "-c"]

    done = subprocess.run(
        [*command, _STEPS], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
    )

    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may trace nothing here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    asked = {found[1] or found[2] for found in _ADDRESS.finditer(trace.read_text(errors="replace"))}
    assert asked  # the server itself was seen
    assert not [address for address in asked if not is_loopback(address)]
    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name]
