"""Run the embedded server for one repository: start, load, prove, wait, stop; and find it from elsewhere.

A server's state lives in a folder of its own under the user's state folder, named after the repository:
`server.json` (written when it is ready, removed when it ends), `control.key` (0600) and `server.log`. The
supervisor holds the folder's lock while it lives, so a state file whose lock is free is a dead one's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import pydantic

from resx.errors import MissingCapability, ParityError, ResxError, ServerError, UsageError
from resx.files import exclusive, process_lives, state_folder, write_atomic
from resx.serving.client import Address, Protocol, TritonClient
from resx.serving.deploy import Deployed, deploy
from resx.serving.embedded import LOOPBACK, Ports, TritonProcess, install
from resx.serving.repository import Repository
from resx.zoo.spec import FrozenModel

EXIT_TIMEOUT_S = 10
_STATE, _KEY, _LOG, _OWN_LOG = "server.json", "control.key", "server.log", "serve.log"


class ServerState(FrozenModel):
    """A running server, as others find it."""

    pid: int
    """Of the supervisor: what `resx stop` signals."""
    server_pid: int
    repository: str
    http_port: int
    grpc_port: int
    metrics_port: int
    started: float
    """Seconds since the epoch."""
    log: str

    def address(self, protocol: Protocol) -> Address:
        """Return where to reach it, with its control key."""
        port = self.http_port if protocol == "http" else self.grpc_port
        key = (Path(self.log).parent / _KEY).read_text().strip()
        return Address(host_port=f"{LOOPBACK}:{port}", protocol=protocol, control_key=key)


class _Terminated(BaseException):
    """A signal asked the supervisor to end."""


def running_server(repository: Repository) -> ServerState | None:
    """Return the server that serves this repository, or None."""
    folder = _folder(repository)
    state = _read_state(folder)
    return state if state and _is_locked(folder) else None


def serve(
    repository: Repository, ports: Ports, models: Sequence[str], *,
    on_step: Callable[[str], None], on_ready: Callable[[ServerState, list[Deployed], list[ResxError]], None],
) -> None:  # fmt: skip
    """Serve the repository until SIGINT or SIGTERM; ready once every model answered its canary.

    A model that fails does not keep the others from being served; its error is among those given to
    `on_ready`.

    Raises:
        UsageError: the repository is served already, a port is taken, or a model is not there.
        ServerError: the server ended by itself.
    """
    for name in models:
        repository.version_folder(name)
    with _signals(), _own(repository) as folder:
        installation = install(on_step)
        ports = ports.resolved()
        log, key = folder / _LOG, secrets.token_urlsafe(24)
        if log.exists():
            log.replace(folder / f"{_LOG}.1")
        log.touch()
        write_atomic(folder / _KEY, key, mode=0o600)
        on_step("start tritonserver")
        process = TritonProcess(
            installation, repository.root.resolve(), ports, control_key=key, log=log, exit_timeout_s=EXIT_TIMEOUT_S
        )
        try:
            state = ServerState(
                pid=os.getpid(), server_pid=process.pid, repository=str(repository.root.resolve()),
                http_port=ports.http, grpc_port=ports.grpc, metrics_port=ports.metrics,
                started=time.time(), log=str(log),
            )  # fmt: skip
            deployed, errors = _load(process, state, repository, models, on_step)
            write_atomic(folder / _STATE, state.model_dump_json(indent=2) + "\n", mode=0o600)
            on_ready(state, deployed, errors)
            while not process.wait(1.0):
                pass
            process.require_running()
        except _Terminated:
            on_step("stop")
        finally:
            _without_interruption(process.stop)
            (folder / _STATE).unlink(missing_ok=True)


def serve_detached(
    repository: Repository, ports: Ports, arguments: Sequence[str] = (), *, timeout_s: float = 600.0
) -> ServerState:
    """Start `resx serve` with these further arguments in a process of its own and wait until it is ready.

    Raises:
        UsageError: the repository is served already.
        ServerError: it ended before it was ready; the message is its own last line.
    """
    if state := running_server(repository):
        raise _served_already(repository, state)
    ports.resolved()
    folder = _folder(repository)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / _OWN_LOG
    pid = _spawn(
        [f"--repository={repository.root}", f"--http-port={ports.http}", f"--grpc-port={ports.grpc}",
         f"--metrics-port={ports.metrics}", *arguments],
        log,
    )  # fmt: skip
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                raise _error_of(os.waitstatus_to_exitcode(status), log)
            if state := running_server(repository):
                return state
            time.sleep(0.1)
        raise ServerError(f"not ready after {timeout_s:g} s; see {log}")
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        raise


def _spawn(arguments: Sequence[str], log: Path) -> int:
    """Start `resx serve` in a session of its own; return its process id.

    posix_spawn rather than subprocess, which takes a child that outlives its parent for a mistake.
    """
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = [sys.executable, "-m", "resx", "serve", *arguments]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsid=True)


def stop(repository: Repository) -> ServerState:
    """End the server of this repository and wait until it is gone.

    Raises:
        UsageError: none runs.
        ServerError: it did not end in time.
    """
    state = running_server(repository)
    if state is None:
        raise UsageError(f"{repository.root}: no server of this repository runs; `resx serve` starts one")
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + EXIT_TIMEOUT_S + 10
    while time.monotonic() < deadline:
        if not process_lives(state.pid):
            return state
        time.sleep(0.05)
    raise ServerError(f"process {state.pid} did not end within {EXIT_TIMEOUT_S + 10} s; see {state.log}")


def _load(
    process: TritonProcess,
    state: ServerState,
    repository: Repository,
    models: Sequence[str],
    on_step: Callable[[str], None],
) -> tuple[list[Deployed], list[ResxError]]:
    """Wait until the server answers, then deploy the models one by one."""
    # The key is read back from its file: what works here works for every later client.
    with TritonClient(state.address("grpc")) as client:
        while not client.is_live():
            process.require_running()
            time.sleep(0.05)
        deployed, errors = [], []
        for name in models:
            on_step(f"load {name} and check its answer")
            try:
                deployed.append(deploy(client, repository, name))
            except ResxError as error:
                process.require_running()
                errors.append(error)
        return deployed, errors


@contextlib.contextmanager
def _own(repository: Repository) -> Iterator[Path]:
    """Hold the lock of the repository's state folder and give the folder."""
    folder = _folder(repository)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with exclusive(folder, wait=False):
            (folder / _STATE).unlink(missing_ok=True)
            yield folder
    except BlockingIOError:
        raise _served_already(repository, _read_state(folder)) from None


def _served_already(repository: Repository, state: ServerState | None) -> UsageError:
    where = f" at 127.0.0.1:{state.http_port} by process {state.pid}" if state else ", and still starting"
    return UsageError(f"{repository.root}: is served already{where}; `resx stop` ends it")


def _folder(repository: Repository) -> Path:
    identity = hashlib.sha256(str(repository.root.resolve()).encode()).hexdigest()[:12]
    return state_folder() / "servers" / f"{repository.root.resolve().name}-{identity}"


def _read_state(folder: Path) -> ServerState | None:
    try:
        return ServerState.model_validate_json((folder / _STATE).read_bytes())
    except (OSError, pydantic.ValidationError):
        return None


def _is_locked(folder: Path) -> bool:
    try:
        with exclusive(folder, wait=False):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one exception, so that every exit takes the same way out."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Terminated:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_interruption(action: Callable[[], None]) -> None:
    """Run a clean-up that a second Ctrl-C must not cut short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        action()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _error_of(code: int, log: Path) -> ResxError:
    """Turn the end of a detached `resx serve` into the error that it would have raised here."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    message = (lines or [f"it ended with code {code}"])[-1].removeprefix("error: ")
    kinds: dict[int, type[ResxError]] = {kind.exit_code: kind for kind in (UsageError, ParityError, MissingCapability)}
    return kinds.get(code, ServerError)(message)
