"""What a source of images was like when a job began, so that a job that goes on can tell whether it changed.

A fingerprint has a line for each file: its name, size, modification time and mark. A mark says more than these: the
hash of a table's footer, or what a bucket calls ETag, generation or version. Contents are not read: a file that was
written again with the same size and the same time passes for unchanged.

The lines are kept compressed, about 30 bytes a file, and unpacked only to say what differs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resx.errors import UsageError
from resx.files.reading import MAX_LIST_BYTES, read_bounded
from resx.text import one_line

_MAX_UNPACKED_BYTES = 8 * MAX_LIST_BYTES
_NAMES_TOLD = 3
_GZIP = 31
"""zlib's number for gzip's format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What is known of a file without reading it."""

    size: int = -1
    """-1: it is not there, or nobody says."""
    time: str = ""
    """When it was last written, as its file system says it."""
    mark: str = ""


MISSING = FileFacts()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """The facts of all files of a source."""

    sha256: str
    packed: bytes
    """What `compare` reads; goes into a file as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The names of files that are not as they were."""

    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retimed: tuple[str, ...] = ()
    """Of the same size, with another modification time."""

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.retimed)

    @property
    def only_times(self) -> bool:
        """Whether the contents may be the same, as they are after a copy or a checkout."""
        return not (self.removed or self.added or self.changed)

    @property
    def words(self) -> str:
        """The counts, each with its first names."""
        kinds = (
            (self.removed, "removed"),
            (self.added, "added"),
            (self.changed, "changed"),
            (self.retimed, "with another modification time"),
        )
        return ", ".join(
            f"{len(names):,} file{'s' * (len(names) != 1)} {what} ({_few(names)})" for names, what in kinds if names
        )


def facts_of(path: Path | str) -> FileFacts:
    """Return the facts of a local file; those of the file that a link leads to."""
    try:
        about = os.stat(path)  # noqa: PTH116 - the path may be text
    except (OSError, ValueError):
        return MISSING
    return facts_in(about)


def facts_in(about: os.stat_result) -> FileFacts:
    """Return the facts that the system's answer about a file has."""
    return FileFacts(size=about.st_size, time=str(about.st_mtime_ns))


def fingerprint_of(files: Iterable[tuple[str, FileFacts]]) -> Fingerprint:
    """Return the fingerprint of files by their names."""
    digest, packed = hashlib.sha256(), io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0, compresslevel=1) as lines:
        for name, facts in files:
            line = json.dumps([name, facts.size, facts.time, facts.mark]).encode() + b"\n"
            digest.update(line)
            lines.write(line)
    return Fingerprint(sha256=digest.hexdigest(), packed=packed.getvalue())


def fingerprint_of_files(root: Path, paths: Iterable[Path]) -> Fingerprint:
    """Return the fingerprint of local files, named relative to `root`, so that the folder may be moved as a whole."""
    return fingerprint_of((os.path.relpath(path, root), facts_of(path)) for path in paths)


def fingerprint_of_content(name: str, blocks: Iterable[bytes | memoryview]) -> Fingerprint:
    """Return the fingerprint of what is in memory: its hash, whatever its files' times."""
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        size += len(block)
    return fingerprint_of([(name, FileFacts(size=size, mark=digest.hexdigest()))])


def compare(stored: Path, now: Fingerprint, *, ignore_times: bool = False) -> Difference:
    """Return how a source differs from what a file of an earlier job says of it.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        before = read_bounded(stored, MAX_LIST_BYTES)
        return _difference(_unpacked(before), _unpacked(now.packed), ignore_times=ignore_times)
    except (OSError, ValueError, TypeError, zlib.error) as error:
        raise UsageError(f"{stored}: cannot be read; it says what the source was when the run began") from error


def _difference(before: dict[str, FileFacts], now: dict[str, FileFacts], *, ignore_times: bool) -> Difference:
    both = [name for name in before if name in now and before[name] != now[name]]
    changed = [name for name in both if _without_time(before[name]) != _without_time(now[name])]
    return Difference(
        removed=tuple(name for name in before if name not in now),
        added=tuple(name for name in now if name not in before),
        changed=tuple(changed),
        retimed=() if ignore_times else tuple(sorted(set(both) - set(changed))),
    )


def _without_time(facts: FileFacts) -> tuple[int, str]:
    return facts.size, facts.mark


def _unpacked(packed: bytes) -> dict[str, FileFacts]:
    unpacker = zlib.decompressobj(_GZIP)
    content = unpacker.decompress(packed, _MAX_UNPACKED_BYTES)
    if not unpacker.eof:
        raise ValueError("cut off, or too long")
    found: dict[str, FileFacts] = {}
    for line in content.splitlines():
        name, size, time, mark = json.loads(line)
        if not (isinstance(name, str) and isinstance(size, int) and isinstance(time, str) and isinstance(mark, str)):
            raise TypeError(line)
        found[name] = FileFacts(size=size, time=time, mark=mark)
    return found


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(map(one_line, names[:_NAMES_TOLD])) + (", ..." if len(names) > _NAMES_TOLD else "")
