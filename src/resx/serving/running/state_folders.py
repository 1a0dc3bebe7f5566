"""The folder of a repository's server among the user's state: what is known of it outside of its processes.

server.json      how to reach it and how it has fared; written by its supervisor alone, removed when it ends
owner.json       who is starting or running it (`supervisor/ownership.py`)
ended.json       why the last one gave up, until the next one starts
control.key      0600
deployed/NAME    the versions of a model that have proved themselves and are to be served, one file per model
previous/NAME    which version answered before the last change, by server: what `resx rollback` goes back to
chosen/NAME      which version was deployed or rolled back to, by server: what the next `resx serve` starts with
id               names this folder in the repository's own marks of what is in use (`repository/versions_in_use.py`)
server.log       of tritonserver and of its supervisor; serve.log is what a detached `resx serve` prints
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from resx.errors import ResxError, UsageError
from resx.files.disk_space import why_no_room
from resx.files.own_folders import make_state_folder, state_folder
from resx.repository.versions import Repository

SERVERS = "servers"
"""Holds a folder for each repository."""
DEPLOYED = "deployed"


def folder_of(repository: Repository) -> Path:
    """Return the state folder of the repository's server. It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return state_folder(SERVERS, _name_of(repository))


def _name_of(repository: Repository) -> str:
    identity = hashlib.sha256(os.fsencode(repository.root.resolve())).hexdigest()[:12]
    return f"{repository.root.resolve().name}-{identity}"


def make_folder(repository: Repository) -> Path:
    """Return the state folder of the repository's server, made if need be.

    Raises:
        UsageError: it cannot be written, or somebody else can write in it, or replace it.
        ResxError: its disk is full.
    """
    folder = state_folder(SERVERS) / _name_of(repository)
    try:
        with contextlib.suppress(FileNotFoundError):
            _close(folder)
        make_state_folder(SERVERS, folder.name, DEPLOYED)
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
    state_folder(SERVERS)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        state_folder(SERVERS, folder.name)
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


def records_folder(repository: Repository, kind: str) -> Path:
    """Return the folder of one kind of record, such as `deployed`. It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return state_folder(SERVERS, _name_of(repository), kind)


def make_records_folder(repository: Repository, *kind: str) -> Path:
    """Return that folder, made if need be; without a kind the one that holds them all."""
    return make_state_folder(SERVERS, _name_of(repository), *kind)
