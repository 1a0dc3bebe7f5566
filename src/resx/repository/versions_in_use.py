"""Which versions of a repository are in use, said in the repository itself: `resx gc` may run as anybody, anywhere.

    .in-use.ID.NAME     a mark: the versions of NAME that one state folder (ID) serves, starts with or goes back to
    N/                  a version's folder: a running supervisor holds a shared lock (flock) on each that it serves

A lock needs no permission to write, is seen by all users and containers of a host, and ends with its process. A mark
stays while no server runs, and is seen by other hosts too. Marks are files, as Triton takes every folder in a
repository for a model, and lie outside of the models' folders, as Triton's polling mode loads a model again whose
folder changes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field

from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import write_atomic
from resx.text import one_line
from resx.values import FrozenModel

MARK = ".in-use."
_CANNOT_WRITE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class _Content(FrozenModel, extra="ignore"):
    """A mark's file; a newer resx may say more."""

    host: str
    state_folder: str
    versions: tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What one state folder uses of a model."""

    path: Path
    owner: str
    """In words: host and state folder, or why the file cannot be read."""
    versions: frozenset[int] | None
    """None: not known, so all of them may be in use."""

    def covers(self, version: int) -> bool:
        """Say whether a version may be in use."""
        return self.versions is None or version in self.versions


def write_mark(root: Path, name: str, versions: Collection[int], *, owner_id: str, state_folder: Path) -> None:
    """Say in the repository which versions of a model a state folder uses; none: take the mark away.

    Nothing is written where the repository cannot be: the locks must do.
    """
    path = root / f"{MARK}{owner_id}.{name}"
    try:
        if versions and root.is_dir():
            content = _Content(host=socket.gethostname(), state_folder=str(state_folder), versions=tuple(versions))
            write_atomic(path, content.model_dump_json() + "\n")
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise


def marks_of(root: Path, name: str) -> Iterator[Mark]:
    """Yield what state folders say of a model, whoever's they are."""
    for path in sorted(root.glob(f"{MARK}*")):
        if path.name.removeprefix(MARK).partition(".")[2] == name:
            yield _read(path)


def _read(path: Path) -> Mark:
    try:
        content = _Content.model_validate_json(read_bounded(path, MAX_TEXT_BYTES))
    except (OSError, UsageError, pydantic.ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a mark"
        return Mark(path=path, owner=f"its usage mark cannot be read ({reason})", versions=None)
    owner = one_line(f"{content.host} uses it, state folder {content.state_folder}")[:300]
    return Mark(path=path, owner=owner, versions=frozenset(content.versions))


@contextlib.contextmanager
def unless_held(version_folder: Path) -> Iterator[bool]:
    """Give whether no running server holds a version; while this lasts none can begin to."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(version_folder, wait=False))
        except BlockingIOError:
            yield False
            return
        yield True


class Hold:
    """The locks of one supervisor."""

    def __init__(self, root: Path) -> None:
        """Begin with none, on versions of the repository at `root`."""
        self._root, self._held = root, dict[tuple[str, int], int]()

    def change(self, served: Mapping[str, Sequence[int]]) -> None:
        """Hold these versions and no others; one whose folder is being deleted, or is gone, is left out."""
        wanted = {(name, version) for name, versions in served.items() for version in versions}
        for gone in self._held.keys() - wanted:
            os.close(self._held.pop(gone))
        for name, version in wanted - self._held.keys():
            with contextlib.suppress(OSError):
                descriptor = os.open(self._root / name / str(version), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    os.close(descriptor)
                else:
                    self._held[name, version] = descriptor
