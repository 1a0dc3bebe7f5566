"""Where the images of `resx predict` come from, and in which order.

A source is listed once, before the first image is read; a row's number is its place in that listing, and the
listing's hash and the files' fingerprint say on `--resume` whether it is still the same. The paths, sizes and times are
held, about 130 bytes an image. Parquet files are `resx.scoring.parquet`'s.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from resx.errors import UsageError
from resx.fingerprint import FileFacts, Fingerprint, facts_in, facts_of, fingerprint_of
from resx.listing import (
    IMAGE_SUFFIXES,
    Listing,
    count_suffixes,
    expand,
    list_files,
    printable,
    read_lines,
    skipped_words,
)
from resx.reading import MAX_LIST_BYTES, MAX_LIST_LINES, read_limits
from resx.scoring.uri import (
    KINDS,
    SUFFIXES,
    archive_facts,
    ask_facts,
    is_remote,
    is_uri,
    list_remote,
    local_path,
    num_unasked,
    read_file,
    suffix_of,
    without_secrets,
)
from resx.training.images import SMALLER_FILE

_SPLIT = "split the list, or give a folder or a glob"
_READ_TRIES, _FIRST_WAIT_S = 3, 0.2
"""A bucket that fails once is asked again, before its image becomes a row with an error."""
CHANGED = "changed after this run began"
_UNKNOWN = -2


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image that is to be scored."""

    path: str
    """As the output shows it."""
    read: Callable[[], bytes]
    """Gives the file's bytes; called in another thread."""
    held_bytes: int = 0
    """What it keeps in memory until it is read."""


class Source(Protocol):
    """Images in a fixed order; it can be sent to another process."""

    @property
    def num_rows(self) -> int:
        """How many images there are."""

    @property
    def sha256(self) -> str:
        """Of the listing: the same again for the same images."""

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the files; None in a part."""

    @property
    def unwatched(self) -> int:
        """Files of which only the name is known, so that a change cannot be noticed."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """The number of files that lie there and are not taken, by suffix."""

    @property
    def hidden(self) -> int:
        """Hidden files and folders that lie there; none of them is looked at."""

    @property
    def is_remote(self) -> bool:
        """Whether reading is waiting rather than work."""

    def part(self, start: int, stop: int) -> Source:
        """Return the rows from `start` to before `stop`, without what only the others need."""

    def for_other_machines(self) -> Source:
        """Return the same rows without the times of files: a copy elsewhere has others."""

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""


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
            paths=self.paths[start:stop], sha256=self.sha256, base=self.base,
            sizes=None if self.sizes is None else self.sizes[start:stop],
            times_ns=None if self.times_ns is None else self.times_ns[start:stop],
        )  # fmt: skip

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
        paths=tuple(path for path, _ in found), sha256=digest.hexdigest(), skipped=skipped or {}, hidden=hidden,
        base=str(Path.cwd()), fingerprint=fingerprint_of(found),
        sizes=array("q", [size for size, _ in known]), times_ns=array("q", [time_ns for _, time_ns in known]),
    )  # fmt: skip


def find_source(text: str, column: str, images_from: str = "") -> Source:
    """Return what the user's words name.

    Args:
        text: a folder, a glob, an image, a list, Parquet files, or a URI of these.
        column: of the bytes in Parquet; empty: the only one.
        images_from: the folder that paths in Parquet may lead into; empty: that of the table.

    Raises:
        UsageError: there is no such thing, nothing in it can be scored, or it cannot be read.
        MissingCapability: its driver is not installed, or its bucket cannot be reached.
    """
    found, hidden = _found(text)
    names = [name for name, _ in found]
    if len(found) == 1 and suffix_of(names[0]) == ".txt":
        lines = _lines(names[0])
        listed = list(zip(lines, ask_facts(lines), strict=True))
        source: Source = replace(files_of(listed, is_list=True, hidden=hidden), unwatched=num_unasked(lines))
    else:
        images = [one for one in found if suffix_of(one[0]) in IMAGE_SUFFIXES]
        tables = [name for name in names if suffix_of(name) == ".parquet"]
        if tables and not images:
            from resx.scoring.parquet import open_tables

            skipped = count_suffixes(suffix for name in names if (suffix := suffix_of(name)) != ".parquet")
            source = open_tables(tables, column, images_from=images_from, skipped=skipped, hidden=hidden)
        else:
            skipped = count_suffixes(suffix for name in names if (suffix := suffix_of(name)) not in IMAGE_SUFFIXES)
            source = files_of(images, skipped=skipped, hidden=hidden)
            if is_remote(text) and "::" in text:
                source = replace(source, fingerprint=fingerprint_of([*archive_facts(text), *images]))
    if not source.num_rows:
        words = skipped_words(source.skipped, source.hidden)
        others = f"; skipped {words}" if words else ""
        raise UsageError(f"{without_secrets(text)}: no images{others}; give {KINDS}")
    return source


def _found(text: str) -> tuple[list[tuple[str, FileFacts]], int]:
    """Return the files that the words name, with their facts, in the order of their names; and how many were hidden."""
    if is_remote(text):
        found, hidden = list_remote(text)
        return sorted(found, key=_name), hidden
    listing = _local(text)
    scheme = text.partition("://")[0] + "://" if is_uri(text) else ""
    try:
        found = [(scheme + path, _facts(path)) for path in listing.paths]
    except OSError as error:
        raise UsageError(f"{error.filename}: {_reason(error)}; give {KINDS}") from error
    named = len(found) == 1 and found[0][0] in (text, scheme + local_path(text))
    if named and suffix_of(found[0][0]) not in SUFFIXES:
        raise UsageError(f"{text}: cannot be told from its name; give {KINDS}")
    return sorted(found, key=_name), listing.hidden


def _local(text: str) -> Listing:
    """Return what a path names: a folder's files, itself if it exists, else what it matches as a glob."""
    path = local_path(text)
    if Path(path).is_dir():
        return list_files(path)
    if os.path.lexists(path) or not glob.has_magic(path):
        return Listing(paths=(path,), hidden=0)
    found = expand(path)
    return expand(unquote(path, errors="surrogateescape")) if not found.paths and is_uri(text) else found


def _name(found: tuple[str, FileFacts]) -> str:
    return found[0]


def _facts(path: str) -> FileFacts:
    # A link that leads nowhere is a row with an error; a source that is nothing else is refused.
    return facts_in(os.lstat(path) if Path(path).is_symlink() and not Path(path).exists() else Path(path).stat())


def _lines(path: str) -> list[str]:
    shown = without_secrets(path)
    try:
        content = read_file(path, MAX_LIST_BYTES, remedy=_SPLIT)
    except OSError as error:
        raise UsageError(f"{shown}: {_reason(error)}; give a list of paths, one a line") from error
    if (num_lines := content.count(b"\n")) > MAX_LIST_LINES:
        raise UsageError(f"{shown}: a list of {num_lines:,} lines: the limit is {MAX_LIST_LINES:,}; {_SPLIT}")
    try:
        return read_lines(content)
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None


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


def _reason(error: OSError) -> str:
    return without_secrets((error.strerror or str(error)).lower())
