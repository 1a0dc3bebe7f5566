"""A tritonserver that somebody started by hand: their own repository, their own control mode, no control key."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from resx.serving.client.address import parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded.installation.triton_installation import Installation, install, process_environment
from resx.serving.embedded.server_ports import Ports


@contextlib.contextmanager
def triton_by_hand(repository: Path, mode: str, log: Path, installed: Installation | None = None) -> Iterator[Ports]:
    """Run one over a repository until the block ends; it begins when nothing is loading any more."""
    installed = installed or install()
    library = [f"--backend-config=onnxruntime,library={installed.onnxruntime}"] if installed.onnxruntime else []
    ports = Ports(http=0, grpc=0, metrics=0).resolved()
    command = [
        str(installed.server), f"--model-repository={repository}", f"--backend-directory={installed.backends}",
        f"--model-control-mode={mode}", "--exit-on-error=false", "--exit-timeout-secs=1", "--allow-metrics=false",
        f"--http-address={LOOPBACK}", f"--grpc-address={LOOPBACK}", f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}", f"--backend-config=python,shm-region-prefix-name=by-hand-{ports.http}-", *library,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=process_environment(installed), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        with TritonClient(parse_address(f"{LOOPBACK}:{ports.grpc}", "grpc")) as client:
            deadline = time.monotonic() + 120
            while not client.is_live() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.1)
            assert client.is_live(), log.read_text(errors="replace")[-2000:]
            while client.model_versions("LOADING") and time.monotonic() < deadline:  # live comes before loaded
                time.sleep(0.1)
        yield ports
    finally:
        process.terminate()
        process.wait(60)
