"""How a running server is reached and how it has fared: `server.json` in its state folder (`state_folders.py`).

The supervisor holds the folder's lock while it lives, so a state file whose lock is free is a dead one's.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field

from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.files.own_folders import read_state_file, state_folder
from resx.repository.versions import Repository
from resx.serving.client.address import Address, Protocol
from resx.serving.client.loopback import LOOPBACK, means_embedded, split_host
from resx.serving.running.processes import MAX_PID, Process
from resx.serving.running.state_folders import SERVERS, folder_of
from resx.values import FrozenModel

STATE, ENDED, KEY, LOG, OWN_LOG = "server.json", "ended.json", "control.key", "server.log", "serve.log"


class Recovery(FrozenModel, extra="ignore"):
    """One time that the server, or a model's process, was brought back."""

    reason: str
    model: str | None = None
    """That was loaded again while the others went on; None: the server was started again."""
    detected_s: float
    """On the clock of `now_s`, as the times below."""
    serving_s: float
    """When every model answered its canary again."""


class ServerState(FrozenModel, extra="ignore"):
    """A running server, as others find it; a newer resx, whose server runs, may say more."""

    pid: int = Field(ge=1, le=MAX_PID)
    """Of the supervisor: what `resx stop` signals."""
    start_ticks: int = Field(default=0, ge=0)
    """When that process began, as `Process` has it, so that no other that gets its id is taken for it."""
    executable: str = ""
    """What that process runs."""
    server_pid: int = Field(ge=0, le=MAX_PID)
    server_start_ticks: int = Field(default=0, ge=0)
    repository: str
    http_port: int = Field(ge=0, le=65535)
    grpc_port: int = Field(ge=0, le=65535)
    metrics_port: int = Field(ge=0, le=65535)
    started: float
    """Seconds since the epoch, for people; the wall clock may jump."""
    started_s: float = 0.0
    """On the clock of `now_s`, for uptime."""
    exit_timeout_s: int = Field(default=10, ge=0)
    native: bool = False
    """Models are computed in the server itself, not in Python processes."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What instances of KIND_AUTO compute on."""
    server_dir: str = ""
    """The folder of another Triton's files that serves; empty for resx's own."""
    server_version: str = ""
    """What that one says it is."""
    patched: bool = True
    """Its files have resx's patches."""
    # The server's, not its models': while one of them recovers the others are served.
    phase: Literal["serving", "recovering", "draining"] = "serving"
    restarts: int = 0
    """Recoveries since it was started, of the server and of single models."""
    last_recovery: Recovery | None = None
    recovering: dict[str, str] = Field(default_factory=dict)
    """Models that are being loaded again, and why; the others go on."""
    set_aside: dict[str, str] = Field(default_factory=dict)
    """Models that are out of service, and why; the others go on. `resx deploy` tries one again."""
    trouble: str = ""
    """While the server or a model recovers: what went wrong."""
    log: str
    """In the state folder, always: `read_state` does not go by what the file says."""

    @property
    def process(self) -> Process:
        """The supervisor's."""
        return Process(pid=self.pid, start_ticks=self.start_ticks, executable=self.executable)

    def address(self, protocol: Protocol) -> Address:
        """Return where to reach it, with its control key."""
        port = self.http_port if protocol == "http" else self.grpc_port
        key = read_state_file(Path(self.log).parent / KEY).decode().strip()
        return Address(host_port=f"{LOOPBACK}:{port}", protocol=protocol, control_key=key)

    def is_at(self, host_port: str) -> bool:
        """Say whether that is where it listens."""
        host, port = split_host(host_port)
        return port in {self.http_port, self.grpc_port} and means_embedded(host)


class Ended(FrozenModel, extra="ignore"):
    """Why a supervisor gave up."""

    reason: str
    ended: float
    """Seconds since the epoch."""
    restarts: int
    log: str


def now_s() -> float:
    """Return seconds on a clock that all processes share and that no change of the date moves; it ends with a boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def running_server(repository: Repository) -> ServerState | None:
    """Return the server that serves this repository, or None."""
    folder = folder_of(repository)
    state = read_state(folder)
    return state if state and _is_locked(folder) else None


def is_starting(repository: Repository) -> bool:
    """Say whether a supervisor owns this repository that has not written its state yet."""
    folder = folder_of(repository)
    for _ in range(10):  # others take the lock for an instant, to see whether it is free
        if not _is_locked(folder):
            return False
        time.sleep(0.02)
    return read_state(folder) is None


def server_at(host_port: str) -> ServerState | None:
    """Return the embedded server of this user that listens there, whichever repository it serves, or None."""
    for path in state_folder(SERVERS).glob(f"*/{STATE}"):
        folder = state_folder(SERVERS, path.parent.name)
        state = read_state(folder)
        if state and state.is_at(host_port) and _is_locked(folder):
            return state
    return None


def gave_up(repository: Repository) -> Ended | None:
    """Return why the last server of this repository gave up, or None if it did not, or another runs."""
    try:
        return Ended.model_validate_json(read_state_file(folder_of(repository) / ENDED))
    except (OSError, pydantic.ValidationError):
        return None


def read_state(folder: Path) -> ServerState | None:
    """Return what `server.json` says, of a server that may be dead."""
    try:
        found = ServerState.model_validate_json(read_state_file(folder / STATE))
        return found.model_copy(update={"log": str(folder / LOG)})
    except (OSError, pydantic.ValidationError):
        return None


def write_state(folder: Path, state: ServerState) -> None:
    """Replace `server.json`; without fsync, as a slow disk must not keep the supervisor from watching."""
    staged = folder / f".{STATE}.{os.getpid()}"
    try:
        staged.write_text(state.model_dump_json(indent=2) + "\n")
        staged.chmod(0o600)
        staged.replace(folder / STATE)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise


def served_already(repository: Repository, state: ServerState | None) -> UsageError:
    """Return the error for a second server of the same repository."""
    where = f" at {LOOPBACK}:{state.http_port} by process {state.pid}" if state else ", and still starting"
    return UsageError(f"{repository.root}: is served already{where}; stop it with `resx stop`")


def _is_locked(folder: Path) -> bool:
    try:
        with exclusive(folder, wait=False):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
