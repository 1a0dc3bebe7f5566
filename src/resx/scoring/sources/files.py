"""Image files as a source: a folder, a glob, a list, or a bucket of them."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from resx.data.image_decoding import SMALLER_FILE
from resx.errors import UsageError
from resx.files.fingerprint import FileFacts, Fingerprint, facts_of, fingerprint_of
from resx.files.reading import read_limits
from resx.scoring.sources.source import CHANGED, Row
from resx.scoring.sources.uri import is_remote, local_path, read_file
from resx.text import printable

_READ_TRIES, _FIRST_WAIT_S = 3, 0.2
"""A bucket that fails once is asked again, before its image becomes a row with an error."""

_UNKNOWN = -2


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Image files, on this machine or wherever fsspec reads."""

    paths: tuple[str, ...]
    sha256: str
    skipped: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0
    base: str = ""
    """What relative paths are relative to: another process may stand elsewhere."""
    fingerprint: Fingerprint | None = None
    unwatched: int = 0
    sizes: array[int] | None = None
    times_ns: array[int] | None = None
    """Of each file when it was listed, `_UNKNOWN` where nobody says: a file that changes meanwhile is not scored."""

    @property
    def num_rows(self) -> int:
        """How many images there are."""
        return len(self.paths)

    @property
    def is_remote(self) -> bool:
        """Whether the first image is not on this machine."""
        return bool(self.paths) and is_remote(self.paths[0])

    def part(self, start: int, stop: int) -> Files:
        """Return the rows from `start` to before `stop`."""
        return Files(
            paths=self.paths[start:stop],
            sha256=self.sha256,
            base=self.base,
            sizes=None if self.sizes is None else self.sizes[start:stop],
            times_ns=None if self.times_ns is None else self.times_ns[start:stop],
        )

    def for_other_machines(self) -> Files:
        """Return the same rows without the times of files."""
        return Files(paths=self.paths, sha256=self.sha256, base=self.base)

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""
        for place, path in enumerate(self.paths):
            known = (_UNKNOWN, 0)
            if self.sizes is not None and self.times_ns is not None:
                known = (self.sizes[place], self.times_ns[place])
            yield Row(path=printable(path), read=partial(_read, path, self.base, *known))


def files_of(
    found: Sequence[tuple[str, FileFacts]],
    *,
    is_list: bool = False,
    skipped: Mapping[str, int] | None = None,
    hidden: int = 0,
) -> Files:
    """Return files in the order given, with what is known of them."""
    digest = hashlib.sha256()
    for path, _ in found:
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
    digest.update(repr([] if is_list else [max(0, facts.size) for _, facts in found]).encode())
    known = [(facts.size, int(facts.time or 0)) if not is_remote(path) else (_UNKNOWN, 0) for path, facts in found]
    return Files(
        paths=tuple(path for path, _ in found),
        sha256=digest.hexdigest(),
        skipped=skipped or {},
        hidden=hidden,
        base=str(Path.cwd()),
        fingerprint=fingerprint_of(found),
        sizes=array("q", [size for size, _ in known]),
        times_ns=array("q", [time_ns for _, time_ns in known]),
    )


def _read(path: str, base: str, size: int, time_ns: int) -> bytes:
    read = partial(read_file, path, read_limits().file_bytes, remedy=SMALLER_FILE, base=base, name=printable(path))
    if not is_remote(path):
        content = read()
        now = facts_of(Path(base, local_path(path)))
        if size != _UNKNOWN and (now.size, now.time) != (size, str(time_ns)):
            raise UsageError(f"{printable(path)}: {CHANGED}")
        return content
    for tries_before in range(_READ_TRIES - 1):
        try:
            return read()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except OSError:
            time.sleep(_FIRST_WAIT_S * 2**tries_before)
    return read()
