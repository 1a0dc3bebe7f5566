"""Delete old versions of the repository, and never one that is in use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.files.staging import staging_folder
from resx.repository import versions_in_use
from resx.repository.model_folders import why_unreadable
from resx.repository.versions import Repository
from resx.repository.versions_in_use import Mark
from resx.serving.client.client import TritonClient
from resx.serving.deployment.served_model import alone
from resx.serving.running.version_records import used_versions


@dataclass(frozen=True, kw_only=True, slots=True)
class Old:
    """A version that is no longer needed."""

    name: str
    version: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A version that would be old, and that another user, state folder, container or host uses."""

    name: str
    version: int
    reason: str
    mark: Path | None
    """That says so, where no running server was seen to have it: to be deleted if that server is gone for good."""


def collect(
    repository: Repository,
    names: Sequence[str],
    keep: int,
    *,
    clients: Sequence[TritonClient],
    dry_run: bool,
    on_kept: Callable[[Kept], None] = lambda _kept: None,
) -> list[Old]:
    """Delete all but the newest `keep` versions of each model, and return what was deleted, or would be.

    Never deleted: the newest version, one that is deployed or that a rollback would go to, and one that a server
    has loaded, whoever's server that is (`versions_in_use.py`). Each version vanishes whole. Exports and deployments
    of the model wait meanwhile.

    Args:
        repository: where.
        names: models; empty: all that `resx export` made.
        keep: at least 1.
        clients: of the servers over this repository.
        dry_run: delete nothing.
        on_kept: told what is in use elsewhere.

    Raises:
        UsageError: there is no such model, or `keep` is below 1.
        OSError: the repository cannot be written.
    """
    if keep < 1:
        raise UsageError(f"--keep {keep}: give 1 or more; `resx undeploy` stops serving a model")
    for name in names:
        repository.version_folder(name)
    found: list[Old] = []
    for name in names or [name for name in repository.names() if _is_ours(repository, name)]:
        with alone(repository, name), exclusive(repository.root):
            used, marks = _used(repository, name, clients), list(versions_in_use.marks_of(repository.root, name))
            for version in repository.versions(name)[:-keep]:
                if version in used:
                    continue
                folder = repository.root / name / str(version)
                if reason := why_unreadable(folder):
                    on_kept(Kept(name=name, version=version, reason=reason, mark=None))
                    continue
                with versions_in_use.unless_held(folder) as is_free:
                    if kept := _kept(marks, name, version, is_free=is_free):
                        on_kept(kept)
                        continue
                    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                    if not dry_run:
                        _delete(folder, repository.staging_parent())
                found.append(Old(name=name, version=version, size_bytes=size))
    return found


def _kept(marks: Sequence[Mark], name: str, version: int, *, is_free: bool) -> Kept | None:
    """Return why a version is to be kept, if it is."""
    mark = next((mark for mark in marks if mark.covers(version)), None)
    if not is_free:
        reason = "loaded on a running server" + (f" ({mark.owner})" if mark else "")
        return Kept(name=name, version=version, reason=reason, mark=None)
    if mark is None:
        return None
    reason = f"{mark.owner}; if it no longer exists, delete {mark.path}"
    return Kept(name=name, version=version, reason=reason, mark=mark.path)


def _is_ours(repository: Repository, name: str) -> bool:
    return any(repository.has_card(name, version) for version in repository.versions(name))


def _used(repository: Repository, name: str, clients: Sequence[TritonClient]) -> Collection[int]:
    loaded = {version for client in clients for version in client.model_versions().get(name, [])}
    return loaded | used_versions(repository, name)


def _delete(folder: Path, staging: Path) -> None:
    """Take the folder out of the repository in one step, then delete it."""
    with staging_folder(staging) as grave:
        folder.rename(grave / folder.name)
