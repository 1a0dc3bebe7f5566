"""Start `resx serve` as a process of its own, and end it: what `--detach` and `resx stop` do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from resx.errors import MissingCapability, ParityError, ResxError, ServerError, UsageError
from resx.repository.versions import Repository
from resx.serving.embedded.server_ports import Ports
from resx.serving.running import processes
from resx.serving.running.ending_signals import handle_signals
from resx.serving.running.processes import Process
from resx.serving.running.server_state import LOG, OWN_LOG, ServerState, running_server, served_already
from resx.serving.running.start_marks import DETACHING, OWNER, announce, read_announced
from resx.serving.running.state_folders import folder_of, make_folder

_STARTING_S = 30.0
"""In which a server that is starting ends."""


def serve_detached(
    repository: Repository, ports: Ports, arguments: Sequence[str] = (), *, timeout_s: float = 600.0
) -> ServerState:
    """Start `resx serve` with these further arguments in a process of its own and wait until it is ready.

    Raises:
        UsageError: the repository is served already.
        ServerError: it ended before it was ready; the message is its own last line.
    """
    if state := running_server(repository):
        raise served_already(repository, state)
    ports.resolved()
    folder = make_folder(repository)
    signals: list[int] = []
    with announce(folder, DETACHING), _note_signals(signals):
        pid = _spawn(
            [
                f"--repository={repository.root}",
                f"--http-port={ports.http}",
                f"--grpc-port={ports.grpc}",
                f"--metrics-port={ports.metrics}",
                *arguments,
            ],
            folder / OWN_LOG,
        )
        try:
            return _wait_until_ready(repository, pid, folder / OWN_LOG, signals, timeout_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
            raise


def _note_signals(signals: list[int]) -> contextlib.AbstractContextManager[None]:
    """Note the signals that ask this process to end, which raise nothing: none comes between a child and its id."""
    if threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext()
    return handle_signals(lambda number, _frame: signals.append(number))


def _wait_until_ready(
    repository: Repository, pid: int, log: Path, signals: Sequence[int], timeout_s: float
) -> ServerState:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise _error_of(os.waitstatus_to_exitcode(status), log)
        # Until the new supervisor has cleared up, what is written down is a killed one's.
        if (state := running_server(repository)) and state.pid == pid:
            return state
        if signals:
            raise KeyboardInterrupt
        time.sleep(0.1)
    raise ServerError(f"not ready after {timeout_s:g} s; see {log}")


def _spawn(arguments: Sequence[str], log: Path) -> int:
    """Start `resx serve` in a session of its own; return its process id.

    posix_spawn rather than subprocess, which takes a child that outlives its parent for a mistake.
    """
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # -P: no module is taken from the working folder, as none is by the installed `resx`.
    command = [sys.executable, "-P", "-m", "resx", "serve", *arguments]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsid=True)


def stop(repository: Repository) -> Process | None:
    """End the server of this repository and wait until it is gone; return its supervisor, or None if none runs.

    One that is starting is ended, too, with the `resx serve --detach` that waits for it.

    Raises:
        ServerError: it did not end in time, or the process of that id is another one.
    """
    folder = folder_of(repository)
    ended = read_announced(folder, DETACHING)
    if ended:
        _end(ended, _STARTING_S, folder / OWN_LOG)
    # The owner first: a server may get ready between two looks, and a state may be of one that was killed.
    owner, state = read_announced(folder, OWNER), running_server(repository)
    process = owner or (state.process if state else None)
    if not process:
        return ended
    _end(process, state.exit_timeout_s + 10 if state else _STARTING_S, folder / LOG)
    return process


def _end(process: Process, allowed_s: float, log: Path) -> None:
    processes.terminate(process)
    deadline = time.monotonic() + allowed_s
    while processes.lives(process):
        if time.monotonic() > deadline:
            raise ServerError(f"process {process.pid} did not end within {allowed_s:g} s; see {log}")
        time.sleep(0.05)


def _error_of(code: int, log: Path) -> ResxError:
    """Turn the end of a detached `resx serve` into the error that it would have raised here."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    message = (lines or [f"it ended with code {code}"])[-1].removeprefix("error: ")
    kinds: dict[int, type[ResxError]] = {kind.exit_code: kind for kind in (UsageError, ParityError, MissingCapability)}
    return kinds.get(code, ServerError)(message)
