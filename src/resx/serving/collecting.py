"""Delete old versions of the repository, and never one that is in use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.errors import UsageError
from resx.export import card as cards
from resx.files import exclusive, staging_folder
from resx.serving.client import TritonClient
from resx.serving.deploy import alone
from resx.serving.repository import Repository
from resx.serving.state import deployed, previous


@dataclass(frozen=True, kw_only=True, slots=True)
class Old:
    """A version that is no longer needed."""

    name: str
    version: int
    size_bytes: int


def collect(
    repository: Repository, names: Sequence[str], keep: int, *, clients: Sequence[TritonClient], dry_run: bool
) -> list[Old]:
    """Delete all but the newest `keep` versions of each model, and return what was deleted, or would be.

    Never deleted: the newest version, one that is deployed or that a rollback would go to, and one that a server
    has loaded. Each version vanishes whole. Exports and deployments of the model wait meanwhile.

    Args:
        repository: where.
        names: models; empty: all that `resx export` made.
        keep: at least 1.
        clients: of the servers over this repository.
        dry_run: delete nothing.

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
            used = _used(repository, name, clients)
            for version in repository.versions(name)[:-keep]:
                if version in used:
                    continue
                folder = repository.root / name / str(version)
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                if not dry_run:
                    _delete(folder, repository.staging_parent())
                found.append(Old(name=name, version=version, size_bytes=size))
    return found


def _is_ours(repository: Repository, name: str) -> bool:
    return any(
        (repository.root / name / str(version) / cards.FILE_NAME).is_file() for version in repository.versions(name)
    )


def _used(repository: Repository, name: str, clients: Sequence[TritonClient]) -> Collection[int]:
    loaded = {version for client in clients for version in client.model_versions().get(name, [])}
    return loaded | {*deployed(repository).get(name, ())} | {*previous(repository, name).values()}


def _delete(folder: Path, staging: Path) -> None:
    """Take the folder out of the repository in one step, then delete it."""
    with staging_folder(staging) as grave:
        folder.rename(grave / folder.name)
