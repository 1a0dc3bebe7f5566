"""Whose a run folder is: one process trains in it at a time, and it stays the same folder meanwhile.

The lock is that of the folder itself, as predict's parts have it; the kernel lets go of it when the process ends. What
a killed process left staged is deleted by the next one that holds the lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resx.errors import ResxError, UsageError
from resx.files.locks import exclusive, lock_holder
from resx.files.mounts import CannotLock
from resx.files.staging import STAGING_PREFIX
from resx.text import one_line
from resx.training.runs.checkpoint import DATA, RESUME, is_run
from resx.training.runs.run_origin import CONFIG, read_config
from resx.zoo.spec import SPEC_FILE

_STAGED = re.compile(rf"{re.escape(STAGING_PREFIX)}\d+-[\w-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnFolder:
    """A run folder that this process alone writes in."""

    path: Path
    descriptor: int | None
    """Of the locked folder; None where the file system has no locks."""

    def require_same(self) -> None:
        """Check that the path still leads to this folder.

        Raises:
            ResxError: it was moved, deleted or replaced.
        """
        if self.descriptor is None:
            return
        ours = os.fstat(self.descriptor)
        try:
            there = self.path.stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            what = "was moved or deleted" if there is None else "was replaced by another folder"
            raise ResxError(f"{self.path}: {what} during training, so nothing more is written; train into a new folder")


@contextlib.contextmanager
def claim(folder: Path, *, resume: bool, force: bool) -> Iterator[OwnFolder]:
    """Hold a folder for a new run, or one to resume; `force` deletes what an old run left in it.

    Raises:
        UsageError: another process trains in it; or it holds a run and neither is asked for, no run to resume, or
            something else.
    """
    is_new = not folder.exists()
    if not folder.is_dir():
        _require_usable(folder, resume=resume, force=force)
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder) as own:
            own.require_same()
            _require_usable(folder, resume=resume, force=force)
            for path in _find_staged(folder):
                _delete(path)
            if force:
                _clear(folder)
            yield own
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing was begun


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[OwnFolder]:
    with contextlib.ExitStack() as held:
        descriptor: int | None = None
        try:
            descriptor = held.enter_context(exclusive(folder, wait=False))
        except BlockingIOError as error:
            pid = lock_holder(folder)
            by = f"process {pid}" if pid else "another process"
            raise UsageError(f"{folder}: {by} is training in it; wait until it ends, or choose another -o") from error
        except CannotLock:  # said by `resx train`, which goes on: nobody else may be there
            pass
        yield OwnFolder(path=folder, descriptor=descriptor)


def _require_usable(folder: Path, *, resume: bool, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder")
    if resume and not is_run(folder):
        raise UsageError(f"{folder}: no run to resume; remove --resume to start one")
    if is_run(folder) and not resume and not force:
        raise UsageError(f"{folder}: contains a run; --resume continues it, --force deletes it")
    if folder.is_dir() and not is_run(folder) and (strange := _strange(folder)):
        raise UsageError(f"{folder}: contains other files ({one_line(strange)}); choose a new folder")


def _strange(folder: Path) -> str:
    """Return a name in a folder without a run that no killed first write leaves; empty if there is none."""
    left = {path.name for path in folder.iterdir()} - {path.name for path in _find_staged(folder)}
    if CONFIG in left:
        with contextlib.suppress(UsageError):
            read_config(folder)
            left -= {CONFIG, DATA, RESUME}
    return min(left, default="")


def _find_staged(folder: Path) -> list[Path]:
    """Return what a process left staged that trained here. It holds the lock no longer, so it is dead or done."""
    return [path for path in folder.iterdir() if _STAGED.fullmatch(path.name)]


def _clear(folder: Path) -> None:
    """Delete everything; the spec goes last, so that what a kill leaves still is a run that --force deletes."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == SPEC_FILE):
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
