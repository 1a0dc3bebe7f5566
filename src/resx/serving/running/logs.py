"""A server's log: bounded in size and number of files, written to by several processes, read while it grows.

tritonserver and its stubs hold the file open, and a pipe through the supervisor would stop them all whenever it
is slow. So the file is opened for appending, and rotation copies it and cuts it to nothing: the next line of
whichever process starts it anew. What is written between the copy and the cut, some microseconds, is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from resx.text import one_line

MAX_BYTES = 8_000_000
NUM_OLD = 3
_BLOCK = 65536


def rotate(log: Path, *, max_bytes: int = MAX_BYTES, num_old: int = NUM_OLD) -> bool:
    """Turn `log` into `log.1`, `log.1` into `log.2` and so on if it has grown beyond `max_bytes`; say whether.

    What cannot be copied, as on a full disk, is dropped: a log stays bounded and ends no server.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
    except OSError:
        return False
    try:
        _shift(log, num_old)
    except OSError as error:
        try:
            os.truncate(log, 0)
        except OSError:  # read-only by now
            return False
        append(log, f"{log}: could not be rotated to {number_file(log, 1).name} and was dropped: {error.strerror}")
    return True


def _shift(log: Path, num_old: int) -> None:
    for number in range(num_old - 1, 0, -1):
        if (old := number_file(log, number)).exists():
            old.replace(number_file(log, number + 1))
    try:
        with log.open("rb+") as file, number_file(log, 1).open("wb") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            file.truncate(0)
    except OSError:
        with contextlib.suppress(OSError):
            number_file(log, 1).unlink()  # a part of it
        raise


def append(log: Path, text: str) -> bool:
    """Add one line of the supervisor's own, with the date as Triton's log has it; a line break in it is escaped.

    Returns:
        Whether it could be written; a log that cannot ends no server.
    """
    stamp = time.strftime("%m%d %H:%M:%S")
    line = f"resx {stamp} {os.getpid()}] {one_line(text)}\n".encode()
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return os.write(descriptor, line) == len(line)
        finally:
            os.close(descriptor)
    except OSError:
        return False


def last_lines(log: Path, num_lines: int) -> list[str]:
    """Return the last lines, from the rotated files too where the newest has not enough."""
    lines: list[str] = []
    for path in (log, *(number_file(log, number) for number in range(1, NUM_OLD + 1))):
        if len(lines) >= num_lines:
            break
        if path.exists():
            # LF alone ends a line: with the other separators a name in it could look like one of the supervisor's.
            text = path.read_bytes().decode(errors="replace")
            lines = text.removesuffix("\n").split("\n") * bool(text) + lines
    return lines[-num_lines:] if num_lines else []


def follow(log: Path, position: int, ended: Callable[[], bool], *, poll_s: float = 0.2) -> Iterator[bytes]:
    """Give what is added to the log after `position`, until `ended` says so and all has been read."""
    while True:
        over = ended()  # asked before reading: what is written until the end is still given
        size = log.stat().st_size if log.exists() else 0
        if size < position:  # rotated: what was not read yet is at the end of the copy
            yield from _read(number_file(log, 1), position)
            position = 0
        for block in _read(log, position):
            position += len(block)
            yield block
        if over:
            return
        time.sleep(poll_s)


def number_file(log: Path, number: int) -> Path:
    """Return the path of an older file."""
    return log.with_name(f"{log.name}.{number}")


def _read(path: Path, position: int) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(position)
        while block := file.read(_BLOCK):
            yield block
