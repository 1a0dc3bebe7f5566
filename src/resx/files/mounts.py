"""What file system a folder lies on, and what that does not allow: locks on some, programs on others."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from resx.errors import MissingCapability


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the first one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that holds, or will hold, a folder, as mount(8) names it, or `unknown`."""
    path, found = nearest_existing(folder).resolve(), (-1, "unknown")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            fields, _, about = line.partition(" - ")
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4])
            if path.is_relative_to(point) and len(point) >= found[0]:  # of several at one place the last one covers
                found = len(point), about.partition(" ")[0]
    return found[1]


def refuses_programs(folder: Path) -> bool:
    """Say whether the file system that holds, or will hold, a folder is mounted noexec."""
    return bool(os.statvfs(nearest_existing(folder)).f_flag & os.ST_NOEXEC)


class CannotLock(MissingCapability):
    """A folder whose file system has no locks for us."""


def cannot_lock(folder: Path, error: OSError) -> CannotLock:
    """Return the error for a folder that cannot be locked, with its file system."""
    reason = error.strerror or str(error)
    return CannotLock(
        f"{folder} ({file_system_of(folder)}): cannot be locked ({reason}), so two commands could write there at once; "
        "use a folder on a local disk (--repository, -o, RESX_STATE, RESX_CACHE), or mount this one with locks"
    )
