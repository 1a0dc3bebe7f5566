"""What is known of a running server outside of its processes: a folder per repository in the user's state folder.

    server.json      how to reach it and how it has fared; written by its supervisor alone, removed when it ends
    owner.json       who is starting or running it (`starting.py`)
    ended.json       why the last one gave up, until the next one starts
    control.key      0600
    deployed/NAME    the versions of a model that have proved themselves and are to be served, one file per model
    previous/NAME    which version answered before the last change, by server: what `resx rollback` goes back to
    chosen/NAME      which version was deployed or rolled back to, by server: what the next `resx serve` starts with
    id               names this folder in the repository's own marks of what is in use (`in_use.py`)
    server.log       of tritonserver and of its supervisor; serve.log is what a detached `resx serve` prints

The supervisor holds the folder's lock while it lives, so a state file whose lock is free is a dead one's.

`deployed/` is what recovery brings back, and nothing else is: a version that is loaded but has not answered
its canary yet is not in it. Whoever deploys, rolls back or undeploys writes it (`record_deployed`) after the
server answered; one small file per model, replaced whole, needs no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field

from resx.errors import ResxError, UsageError
from resx.files.disk_space import why_no_room
from resx.files.locks import exclusive
from resx.files.own_folders import make_state_folder, read_state_file, state_folder
from resx.files.staging import write_atomic
from resx.names import checked_name
from resx.repository.versions import Repository
from resx.repository.versions_in_use import write_mark
from resx.serving.client.address import Address, Protocol
from resx.serving.client.loopback import LOOPBACK, means_embedded, split_host
from resx.serving.running.processes import MAX_PID, Process
from resx.values import FrozenModel

STATE, ENDED, KEY, LOG, OWN_LOG, DEPLOYED, PREVIOUS, CHOSEN = (
    "server.json", "ended.json", "control.key", "server.log", "serve.log", "deployed", "previous", "chosen",
)  # fmt: skip
_ID = "id"
_SERVERS = "servers"
OURS = ""
"""The repository's own server, among those of `previous` and `read_chosen`."""


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


def folder_of(repository: Repository) -> Path:
    """Return the state folder of the repository's server. It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return state_folder(_SERVERS, _name_of(repository))


def _name_of(repository: Repository) -> str:
    identity = hashlib.sha256(os.fsencode(repository.root.resolve())).hexdigest()[:12]
    return f"{repository.root.resolve().name}-{identity}"


def make_folder(repository: Repository) -> Path:
    """Return the state folder of the repository's server, made if need be.

    Raises:
        UsageError: it cannot be written, or somebody else can write in it, or replace it.
        ResxError: its disk is full.
    """
    folder = state_folder(_SERVERS) / _name_of(repository)
    try:
        with contextlib.suppress(FileNotFoundError):
            _close(folder)
        make_state_folder(_SERVERS, folder.name, DEPLOYED)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, "cannot be written")
    require_room(folder)
    return folder


def require_room(folder: Path) -> None:
    """Check that a state folder takes what a server writes.

    Raises:
        ResxError: its disk, or the user's quota, is full.
    """
    if reason := why_no_room(folder):
        raise ResxError(f"{folder}: {reason}; make room, or set RESX_STATE to a folder on another disk")


def _close(folder: Path) -> None:
    """Let nobody else into a folder of ours any more; whoever was in it must have left nothing there.

    Raises:
        UsageError: it is a link or of another user, or something in it is another user's.
    """
    state_folder(_SERVERS)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        state_folder(_SERVERS, folder.name)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o700:
            return
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    if theirs := [path for path in folder.rglob("*") if path.lstat().st_uid not in (0, os.geteuid())]:
        raise UsageError(
            f"{theirs[0]}: belongs to another user (its folder was writable by everyone); remove it, or set RESX_STATE "
            "to another folder"
        )


def _unwritable(folder: Path, reason: str) -> UsageError:
    return UsageError(f"{folder}: {reason}; set RESX_STATE to a folder that can be written")


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
    for path in state_folder(_SERVERS).glob(f"*/{STATE}"):
        folder = state_folder(_SERVERS, path.parent.name)
        state = read_state(folder)
        if state and state.is_at(host_port) and _is_locked(folder):
            return state
    return None


def remembered_as(repository: Repository, host_port: str) -> str:
    """Return what `previous` calls a server: OURS if it is the repository's own."""
    state = running_server(repository)
    return OURS if state and state.is_at(host_port) else host_port


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


def read_deployed(repository: Repository) -> dict[str, tuple[int, ...]]:
    """Return the versions that are to be served, by model."""
    found = {}
    for path in sorted(_records(repository, DEPLOYED).glob("[A-Za-z0-9]*")):
        try:
            found[path.name] = tuple(int(version) for version in json.loads(read_state_file(path)))
        except (OSError, ValueError, TypeError):  # undeployed just now, or not ours
            continue
    return found


def record_deployed(repository: Repository, name: str, versions: Sequence[int]) -> None:
    """Say that these versions of a model are to be served from now on, whatever happens; none: not at all."""
    path = _records(repository, DEPLOYED) / checked_name(name)
    if versions:
        make_state_folder(_SERVERS, _name_of(repository), DEPLOYED)
        write_atomic(path, json.dumps(sorted(versions)), mode=0o600)
    else:
        path.unlink(missing_ok=True)
    _mark(repository, name)


def record_chosen(repository: Repository, server: str, name: str, versions: Sequence[int]) -> None:
    """Remember what somebody deployed on a server; none: it was undeployed.

    Args:
        repository: the model's.
        server: as `remembered_as` says.
        name: the model's.
        versions: that are to be served there.
    """
    checked_name(name)
    now = read_chosen(repository, name) | {server: tuple(versions)}
    known = {one: there for one, there in now.items() if there or one == OURS}
    path = make_state_folder(_SERVERS, _name_of(repository), CHOSEN) / name
    write_atomic(path, json.dumps(known), mode=0o600)
    _mark(repository, name)


def read_chosen(repository: Repository, name: str) -> dict[str, tuple[int, ...]]:
    """Return which versions somebody deployed, by server as `record_chosen`; none of a model that was undeployed."""
    try:
        found = json.loads(read_state_file(_records(repository, CHOSEN) / name))
        return {str(server): tuple(int(version) for version in versions) for server, versions in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def version_to_start(repository: Repository, name: str) -> int | None:
    """Return the version that the repository's own server starts with: the one deployed last; None: the newest."""
    choice = read_chosen(repository, name).get(OURS, ())
    return max((version for version in choice if version in repository.versions(name)), default=None)


def used_versions(repository: Repository, name: str) -> set[int]:
    """Return what this user's servers serve of a model, start with, or go back to."""
    found = {*read_deployed(repository).get(name, ()), *previous(repository, name).values()}
    return found.union(*read_chosen(repository, name).values())


def _mark(repository: Repository, name: str) -> None:
    """Say in the repository what is in use; an image endpoint goes with its model."""
    if repository.is_endpoint(name):
        return
    path = make_state_folder(_SERVERS, _name_of(repository)) / _ID
    try:
        owner_id = read_state_file(path).decode()
    except FileNotFoundError:
        owner_id = secrets.token_hex(6)
        write_atomic(path, owner_id, mode=0o600)
    versions = sorted(used_versions(repository, name))
    write_mark(repository.root, name, versions, owner_id=owner_id, state_folder=path.parent)


def record_previous(repository: Repository, server: str, name: str, version: int) -> None:
    """Remember which version of a model answered before the last change on a server.

    Args:
        repository: the model's.
        server: as `remembered_as` says.
        name: the model's.
        version: the one that answered.
    """
    checked_name(name)
    path = make_state_folder(_SERVERS, _name_of(repository), PREVIOUS) / name
    write_atomic(path, json.dumps(previous(repository, name) | {server: version}), mode=0o600)
    _mark(repository, name)


def previous(repository: Repository, name: str) -> dict[str, int]:
    """Return which version of a model answered before the last change from here, by server as `record_previous`."""
    try:
        found = json.loads(read_state_file(_records(repository, PREVIOUS) / name))
        return {str(server): int(version) for server, version in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _records(repository: Repository, kind: str) -> Path:
    return state_folder(_SERVERS, _name_of(repository), kind)


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
