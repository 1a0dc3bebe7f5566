"""A disk with only so much room."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(
    root: Path, *, size: int = 8 << 20
) -> Iterator[tuple[Path, Callable[[int], contextlib.AbstractContextManager[None]]]]:
    """Give a folder, and a context in which only so many bytes can be written."""
    root.mkdir(exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], capture_output=True, check=False
        ).returncode
    )

    @contextlib.contextmanager
    def filled(room: int) -> Iterator[None]:
        ballast = root / ".ballast"
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        with contextlib.suppress(OSError):  # somebody wrote meanwhile: it is full all the same
            ballast.write_bytes(b"\0" * max(0, free - room))
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def limited(room: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room // 2, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)

    try:
        yield root, filled if mounted else limited
    finally:
        if mounted:
            subprocess.run(["umount", root], check=True)
