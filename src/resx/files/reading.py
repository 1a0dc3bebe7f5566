"""The bounds of everything that is read, and the one way to read a file within them.

A file can come from anybody, and a few bytes can claim, or unpack to, gigabytes. So a size is checked before anything
of it is in memory, whatever a header says, and only regular files are opened: a pipe waits for ever, a device never
ends. `read_limits` are those of images, which the user may raise; the others are constants below.

The limits are the process's, as RESX_CACHE is: they reach every reader and every process that is started here, and no
reader can be called without them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resx.errors import UsageError

MIB = 2**20
MAX_TEXT_BYTES = 16 * MIB
"""Of a JSON file, a configuration or a file of labels."""
MAX_RESULT_BYTES = 64 * MIB
"""Of a benchmark's result or a run's metrics."""
MAX_LIST_BYTES = 128 * MIB
"""Of a list of paths: two million of 64 characters."""
MAX_LIST_LINES = MAX_LIST_BYTES // 32
"""A line costs about 90 bytes beside its characters, so a list of empty names would be a bomb too."""
MAX_ARRAY_BYTES = 2**30
"""Of an array in a .npz file, unpacked."""

MEGAPIXELS, FILE_MIB = "RESX_MAX_MEGAPIXELS", "RESX_MAX_FILE_MIB"
MOST_MEGAPIXELS, MOST_FILE_MIB = 2000, 2000
"""As far as the limits can be raised: beyond it Pillow's and Arrow's own counters end."""
_BLOCK = 4 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """The bounds of one image."""

    pixels: int = 64_000_000
    """Of the decoded image, and of the resized one: a line of 1 x 60,000 pixels is a bomb too."""
    file_bytes: int = 32 * MIB
    """Of its file, or of its cell in a table."""


class Readable(Protocol):
    """What `read_to_limit` reads; a read may return less than was asked for."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102


class Budget:
    """An amount that all threads together may hold. Who wants more than all of it waits to be alone."""

    def __init__(self, total: Callable[[], int]) -> None:
        """Take the amount from `total` whenever somebody asks: limits can be raised."""
        self._total, self._held, self._changed = total, 0, threading.Condition()

    def take(self, amount: int) -> None:
        """Wait until `amount` is free, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self._total())
            self._held += amount

    def give_back(self, amount: int) -> None:
        """Free what was taken."""
        with self._changed:
            self._held -= amount
            self._changed.notify_all()

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold an amount for as long as this lasts."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)


def read_limits() -> ReadLimits:
    """Return the limits that are in force.

    Raises:
        UsageError: the environment holds something else than a number in their places.
    """
    default = ReadLimits()
    return ReadLimits(
        pixels=_from_environment(MEGAPIXELS, MOST_MEGAPIXELS, 1_000_000, default.pixels),
        file_bytes=_from_environment(FILE_MIB, MOST_FILE_MIB, MIB, default.file_bytes),
    )


def set_limits(*, megapixels: int | None, file_mib: int | None) -> None:
    """Set the limits for this process and those that it starts; None leaves one as it is."""
    for name, value in ((MEGAPIXELS, megapixels), (FILE_MIB, file_mib)):
        if value is not None:
            os.environ[name] = str(value)


def read_bounded(path: Path | str, limit: int, *, name: str = "", remedy: str = "make it smaller") -> bytes:
    """Return the bytes of a regular file of at most `limit`.

    Nothing waits and no more is read than that, also where the size lies: files of /proc, or one that grows.

    Raises:
        UsageError: it is a pipe, a device or a socket, or larger; the message begins with `name`, or with the path.
        OSError: it is missing or a folder, or cannot be opened or read.
    """
    name = name or str(path)
    require_regular(path, name=name)  # before opening, which can be an act for a device
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        about = os.fstat(descriptor)
        _require_regular(about, name)
        return read_to_limit(file, limit, name, size=about.st_size, remedy=remedy)


def read_text(path: Path | str, limit: int = MAX_TEXT_BYTES) -> str:
    """Return a regular file's text, which is UTF-8.

    Raises:
        UsageError: as `read_bounded`.
        OSError: as `read_bounded`.
        UnicodeDecodeError: it is no UTF-8.
    """
    return read_bounded(path, limit).decode()


def read_to_limit(
    file: Readable, limit: int, name: object, *, size: int | None = None, remedy: str = "make it smaller"
) -> bytes:
    """Return everything that a file gives, if that is no more than `limit` bytes.

    Raises:
        UsageError: it is more, or the size says so; the message begins with the name.
        OSError: it cannot be read.
    """
    if size is not None and size > limit:
        raise UsageError(f"{name}: file of {size:,} bytes: the limit is {limit:,}; {remedy}")
    content = bytearray()
    while block := file.read(min(_BLOCK, limit + 1 - len(content))):
        content += block
        if len(content) > limit:
            raise UsageError(f"{name}: file of more than {limit:,} bytes, the limit; {remedy}")
    return bytes(content)


def require_regular(path: Path | str, *, name: str = "") -> None:
    """Check that a path is a regular file, or a link to one, without opening it.

    Raises:
        UsageError: it is a pipe, a device or a socket.
        OSError: it is missing or a folder, or cannot be looked at.
    """
    _require_regular(os.stat(path), name or str(path))  # noqa: PTH116 - the path may be text


def _require_regular(about: os.stat_result, name: str) -> None:
    mode = about.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise UsageError(f"{name}: {what}, not a regular file; give a file")


def _from_environment(name: str, most: int, unit: int, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise UsageError(f"{name}={text}: must be a whole number from 1 to {most}")
    return int(text) * unit
