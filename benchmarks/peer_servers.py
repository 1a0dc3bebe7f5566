"""Start a contender's server over a version, and end it with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.peer_contenders import Contender

from resx.bench.load import wire
from resx.bench.load.wire import Target
from resx.bench.measuring import target_of
from resx.repository.versions import Published
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor.detaching import serve_detached, stop

HERE = Path(__file__).parent / "peers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A server that answers."""

    host_port: str
    requests: tuple[bytes, ...]
    triton: Target | None
    """Whose answers have Triton's form; None: they are the logits' bytes."""
    supervisor: int | None = None
    """The process that asks an idle server's models once a second; None: nobody does."""

    def asleep(self) -> AbstractContextManager[None]:
        """Keep the supervisor from computing."""
        return self._told(signal.SIGSTOP, signal.SIGCONT)

    def awake(self) -> AbstractContextManager[None]:
        """Let the supervisor go on, where it is asleep."""
        return self._told(signal.SIGCONT, signal.SIGSTOP)

    @contextmanager
    def _told(self, at_first: signal.Signals, at_last: signal.Signals) -> Iterator[None]:
        if self.supervisor is None:
            yield
            return
        os.kill(self.supervisor, at_first)
        try:
            yield
        finally:
            os.kill(self.supervisor, at_last)


@contextmanager
def running(
    contender: Contender,
    version: Published,
    images: tuple[np.ndarray, ...],
    folder: Path,
    environments: Path,
    spinning: str,
) -> Iterator[Running]:
    """Run a contender's server, and none when this ends.

    Raises:
        SystemExit: it ended, or did not answer in two minutes.
    """
    if contender.kind == "resx":
        state = serve_detached(version.repository, Ports(http=0, grpc=0, metrics=0), list(contender.options))
        try:
            target = target_of(state.address("http"), version.name, None)
            requests = wire.requests(target, images)
            yield Running(host_port=target.address.host_port, requests=requests, triton=target, supervisor=state.pid)
        finally:
            stop(version.repository)
        return
    port = _free_port()
    model = version.folder.absolute() / version.repository.card(version.name, version.version).model_file
    python = environments.absolute() / contender.script / "bin" / "python"
    command = [python, HERE.absolute() / f"{contender.script}_server.py", model, port, "--spinning", spinning]
    # A home of its own, as Ray writes a token into it and BentoML its models.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    environment |= {"HOME": str(folder), "RAY_TMPDIR": str(folder)}
    with (folder / f"{contender.script}.log").open("ab") as log:
        process = subprocess.Popen(
            [*map(str, command), *contender.options], start_new_session=True, env=environment, stdout=log, stderr=log
        )
    try:
        _wait_until_healthy(contender, process, port, Path(log.name))
        host_port = f"127.0.0.1:{port}"
        yield Running(host_port=host_port, requests=tuple(_post(host_port, image) for image in images), triton=None)
    finally:
        _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _post(host_port: str, image: np.ndarray) -> bytes:
    body = image.tobytes()
    head = f"POST /predict HTTP/1.1\r\nHost: {host_port}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + body


def _wait_until_healthy(contender: Contender, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"{contender.title}: ended with {process.returncode} before it answered: {said}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{contender.title}: does not answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started: all in the session that was made for it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
