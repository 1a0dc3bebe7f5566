"""Which versions of a model are served, were before, and were chosen: one small file per model in the state folder.

`deployed/` is what recovery brings back, and nothing else is: a version that is loaded but has not answered
its canary yet is not in it. Whoever deploys, rolls back or undeploys writes it (`record_deployed`) after the
server answered; a file that is replaced whole needs no lock.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from resx.files.own_folders import read_state_file
from resx.files.staging import write_atomic
from resx.names import checked_name
from resx.repository.versions import Repository
from resx.repository.versions_in_use import write_mark
from resx.serving.running.server_state import running_server
from resx.serving.running.state_folders import DEPLOYED, make_records_folder, records_folder

PREVIOUS, CHOSEN = "previous", "chosen"
_ID = "id"
OURS = ""
"""The repository's own server, among those of `previous` and `read_chosen`."""


def remembered_as(repository: Repository, host_port: str) -> str:
    """Return what `previous` calls a server: OURS if it is the repository's own."""
    state = running_server(repository)
    return OURS if state and state.is_at(host_port) else host_port


def read_deployed(repository: Repository) -> dict[str, tuple[int, ...]]:
    """Return the versions that are to be served, by model."""
    found = {}
    for path in sorted(records_folder(repository, DEPLOYED).glob("[A-Za-z0-9]*")):
        try:
            found[path.name] = tuple(int(version) for version in json.loads(read_state_file(path)))
        except (OSError, ValueError, TypeError):  # undeployed just now, or not ours
            continue
    return found


def record_deployed(repository: Repository, name: str, versions: Sequence[int]) -> None:
    """Say that these versions of a model are to be served from now on, whatever happens; none: not at all."""
    path = records_folder(repository, DEPLOYED) / checked_name(name)
    if versions:
        make_records_folder(repository, DEPLOYED)
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
    path = make_records_folder(repository, CHOSEN) / name
    write_atomic(path, json.dumps(known), mode=0o600)
    _mark(repository, name)


def read_chosen(repository: Repository, name: str) -> dict[str, tuple[int, ...]]:
    """Return which versions somebody deployed, by server as `record_chosen`; none of a model that was undeployed."""
    try:
        found = json.loads(read_state_file(records_folder(repository, CHOSEN) / name))
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
    path = make_records_folder(repository) / _ID
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
    path = make_records_folder(repository, PREVIOUS) / name
    write_atomic(path, json.dumps(previous(repository, name) | {server: version}), mode=0o600)
    _mark(repository, name)


def previous(repository: Repository, name: str) -> dict[str, int]:
    """Return which version of a model answered before the last change from here, by server as `record_previous`."""
    try:
        found = json.loads(read_state_file(records_folder(repository, PREVIOUS) / name))
        return {str(server): int(version) for server, version in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
