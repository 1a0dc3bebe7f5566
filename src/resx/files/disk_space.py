"""Room on a disk: asked for before something large is written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path

from resx.errors import ResxError
from resx.files.mounts import nearest_existing

OUT_OF_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write ends with where the disk, the user's quota or the process's limit is used up."""


def require_free_space(folder: Path, num_bytes: int) -> None:
    """Check that `num_bytes` fit on the file system that holds (or will hold) `folder`.

    Raises:
        ResxError: they do not fit.
    """
    free_bytes = shutil.disk_usage(nearest_existing(folder)).free
    if free_bytes < num_bytes:
        raise ResxError(
            f"{folder}: {num_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free; free some space, or choose "
            "another disk"
        )


def why_no_room(folder: Path, num_bytes: int = 1 << 18) -> str:
    """Return why `num_bytes` cannot be written into an existing folder, or an empty string; quotas count, too."""
    probe = folder / f".room-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"\0" * num_bytes)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""
