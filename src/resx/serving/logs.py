"""A server's log: bounded in size and number of files, written to by several processes, read while it grows.

tritonserver and its stubs hold the file open, and a pipe through the supervisor would stop them all whenever it
is slow. So the file is opened for appending, and rotation copies it and cuts it to nothing: the next line of
whichever process starts it anew. What is written between the copy and the cut, some microseconds, is lost.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from resx.listing import one_line

MAX_BYTES = 8_000_000
NUM_OLD = 3
_BLOCK = 65536


def rotate(log: Path, *, max_bytes: int = MAX_BYTES, num_old: int = NUM_OLD) -> bool:
    """Turn `log` into `log.1`, `log.1` into `log.2` and so on if it has grown beyond `max_bytes`; say whether."""
    if not log.exists() or log.stat().st_size <= max_bytes:
        return False
    for number in range(num_old - 1, 0, -1):
        if (old := numbered(log, number)).exists():
            old.replace(numbered(log, number + 1))
    with log.open("rb+") as file, numbered(log, 1).open("wb") as copy:
        shutil.copyfileobj(file, copy)
        file.truncate(0)
    return True


def append(log: Path, text: str) -> None:
    """Add a line of the supervisor's own, with the date as Triton's log has it; it stays one line whatever it holds."""
    stamp = time.strftime("%m%d %H:%M:%S")
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"resx {stamp} {os.getpid()}] {one_line(text)}\n".encode())
    finally:
        os.close(descriptor)


def last_lines(log: Path, num_lines: int) -> list[str]:
    """Return the last lines, from the rotated files too where the newest has not enough."""
    lines: list[str] = []
    for path in (log, *(numbered(log, number) for number in range(1, NUM_OLD + 1))):
        if len(lines) >= num_lines:
            break
        if path.exists():
            lines = path.read_text(errors="replace").splitlines() + lines
    return lines[-num_lines:] if num_lines else []


def follow(log: Path, position: int, ended: Callable[[], bool], *, poll_s: float = 0.2) -> Iterator[bytes]:
    """Give what is added to the log after `position`, until `ended` says so and all has been read."""
    while True:
        over = ended()  # asked before reading: what is written until the end is still given
        size = log.stat().st_size if log.exists() else 0
        if size < position:  # rotated: what was not read yet is at the end of the copy
            yield from _read(numbered(log, 1), position)
            position = 0
        for block in _read(log, position):
            position += len(block)
            yield block
        if over:
            return
        time.sleep(poll_s)


def numbered(log: Path, number: int) -> Path:
    """Return the path of an older file."""
    return log.with_name(f"{log.name}.{number}")


def _read(path: Path, position: int) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(position)
        while block := file.read(_BLOCK):
            yield block
