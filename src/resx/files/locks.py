"""Locks on folders: one writer at a time, and who it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from resx.files.mounts import cannot_lock, nearest_existing


@contextlib.contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock of an existing folder; the kernel lets go of it when the process dies, so it is never stale.

    Gives the descriptor of the folder, which stays the same one whatever becomes of its name.

    Raises:
        BlockingIOError: another process holds it and `wait` is false.
        CannotLock: its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            raise cannot_lock(folder, error) from error
        yield descriptor
    finally:
        os.close(descriptor)


def require_lockable(folder: Path) -> None:
    """Check that a folder, or the one in which it will be made, can be locked: before the work that needs it.

    Raises:
        CannotLock: its file system has no locks.
    """
    with contextlib.suppress(BlockingIOError, PermissionError), exclusive(nearest_existing(folder), wait=False):
        pass


def lock_holder(folder: Path) -> int | None:
    """Return the id of the process that holds a folder's lock; None if none does, or it cannot be told from here."""
    with contextlib.suppress(OSError):
        facts = folder.stat()
        place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131074 0 EOF; one that waits has "->" after the number
            _, kind, _, _, pid, locked, *_ = line.split()
            if kind == "FLOCK" and locked == place and int(pid) > 0:
                return int(pid)
    return None


def process_lives(pid: int) -> bool:
    """Say whether a process with this id exists, whoever owns it, and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
