"""Where the images of `resx predict` come from, and in which order.

A source is listed once, before the first image is read; a row's number is its place in that listing, and the
listing's hash says on `--resume` whether it is still the same. Only the paths are held, about 100 bytes an image.
Parquet files are `resx.scoring.parquet`'s.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from resx.errors import MissingCapability, UsageError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"}
)
"""Of the files that are taken out of folders, globs and buckets; a list may name any."""
_KINDS = "a folder, a glob, an image, a .txt with one path a line, a .parquet with a column of bytes, or a URI of these"
_READ_TRIES, _FIRST_WAIT_S = 3, 0.2
"""A bucket that fails once is asked again, before its image becomes a row with an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image that is to be scored."""

    path: str
    """As the output shows it."""
    read: Callable[[], bytes]
    """Gives the file's bytes; called in another thread."""


class Source(Protocol):
    """Images in a fixed order; it can be sent to another process."""

    @property
    def num_rows(self) -> int:
        """How many images there are."""

    @property
    def sha256(self) -> str:
        """Of the listing: the same again for the same images."""

    @property
    def skipped(self) -> int:
        """Files that lie there and are not taken."""

    @property
    def is_remote(self) -> bool:
        """Whether reading is waiting rather than work."""

    def part(self, start: int, stop: int) -> Source:
        """Return the rows from `start` to before `stop`, without what only the others need."""

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Image files, on this machine or wherever fsspec reads."""

    paths: tuple[str, ...]
    sha256: str
    skipped: int = 0
    base: str = ""
    """What relative paths are relative to: another process may stand elsewhere."""

    @property
    def num_rows(self) -> int:
        """How many images there are."""
        return len(self.paths)

    @property
    def is_remote(self) -> bool:
        """Whether the first image is not on this machine."""
        return bool(self.paths) and _is_uri(self.paths[0])

    def part(self, start: int, stop: int) -> Files:
        """Return the rows from `start` to before `stop`."""
        return Files(paths=self.paths[start:stop], sha256=self.sha256, base=self.base)

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""
        for path in self.paths:
            yield Row(path=printable(path), read=partial(_read, path, self.base))


def files_of(paths: Iterable[str], *, sizes: Iterable[int] = (), skipped: int = 0) -> Files:
    """Return files in the order given; `sizes`, where they are known, make the listing's hash notice other content."""
    listed, digest = tuple(paths), hashlib.sha256()
    for path in listed:
        digest.update(os.fsencode(path) + b"\0")
    digest.update(repr(list(sizes)).encode())
    return Files(paths=listed, sha256=digest.hexdigest(), skipped=skipped, base=str(Path.cwd()))


def find_source(text: str, column: str) -> Source:
    """Return what the user's words name.

    Args:
        text: a folder, a glob, an image, a list, Parquet files, or a URI of these.
        column: of the bytes in Parquet; empty: the only one.

    Raises:
        UsageError: there is no such thing, nothing in it can be scored, or it cannot be read.
        MissingCapability: its driver is not installed, or its bucket cannot be reached.
    """
    found = _found(text)
    names, skipped = [name for name, _ in found], 0
    if len(found) == 1 and names[0].lower().endswith(".txt"):
        source: Source = files_of(_lines(names[0]))
    else:
        images = [(name, size) for name, size in found if _suffix(name) in SUFFIXES]
        tables = [name for name in names if _suffix(name) == ".parquet"]
        if tables and not images:
            from resx.scoring.parquet import open_tables

            source = open_tables(tables, column, skipped=len(found) - len(tables))
        else:
            skipped = len(found) - len(images)
            source = files_of((name for name, _ in images), sizes=(size for _, size in images), skipped=skipped)
    if not source.num_rows:
        others = f" ({source.skipped} other file{'s' * (source.skipped != 1)} there)" if source.skipped else ""
        raise UsageError(f"{text}: no images{others}; give {_KINDS}")
    return source


def filesystem(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URI, and the path in it.

    Raises:
        UsageError: nobody knows the scheme.
        MissingCapability: the scheme's driver, or fsspec, is not installed.
    """
    try:
        import fsspec
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise MissingCapability(f"{uri}: fsspec is not installed; pip install 'resx[predict]'") from error
    scheme = uri.partition("://")[0]
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        known = known_implementations.get(scheme, {})
        package = known.get("class", "").partition(".")[0]
        remedy = f"pip install {package}" if package not in ("", "fsspec") else known.get("err", str(error))
        raise MissingCapability(f"{uri}: no driver for {scheme}:// is installed; {remedy}") from error
    except ValueError as error:
        raise UsageError(f"{uri}: {error}; give {_KINDS}") from error
    except Exception as error:
        raise _unreachable(uri, error) from error
    return found


def printable(path: str) -> str:
    """Return a path as text that every format can hold; bytes that are no UTF-8 are shown escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _found(text: str) -> list[tuple[str, int]]:
    """Return the files that the words name, with their sizes, in the order of their names."""
    if _is_uri(text):
        return sorted(_remote(text))
    path = Path(text)
    if path.is_dir():
        names: Sequence[str] = [
            os.path.join(folder, name)  # noqa: PTH118 - a Path for each of a million names takes minutes
            for folder, _, inside in os.walk(path, onerror=_refuse)
            for name in inside
            if not name.startswith(".")
        ]
    elif glob.has_magic(text) and not path.exists():
        names = [name for name in glob.glob(text, recursive=True) if Path(name).is_file()]  # noqa: PTH207
    else:
        names = [text]
    try:
        found = sorted((name, Path(name).stat().st_size) for name in names)
    except OSError as error:
        raise UsageError(f"{error.filename}: {_reason(error)}; give {_KINDS}") from error
    if len(names) == 1 and names[0] == text and _suffix(text) not in SUFFIXES | {".txt", ".parquet"}:
        raise UsageError(f"{text}: cannot be told from its name; give {_KINDS}")
    return found


def _remote(uri: str) -> list[tuple[str, int]]:
    system, path = filesystem(uri)
    try:
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
        elif system.isfile(path):
            found = {path: system.info(path)}
        else:
            found = system.find(path, detail=True)
    except FileNotFoundError:
        found = {}
    except Exception as error:
        raise _unreachable(uri, error) from error
    if not found:
        raise UsageError(f"{uri}: nothing is there; give {_KINDS}")
    return [
        (system.unstrip_protocol(name), int(about.get("size") or 0))
        for name, about in found.items()
        if about.get("type") == "file" and not name.rpartition("/")[2].startswith(".")
    ]


def _lines(path: str) -> list[str]:
    try:
        lines = read_file(path).decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {_reason(error)}; give a list of paths, one a line") from error
    return [line.strip() for line in lines if line.strip()]


def read_file(path: str) -> bytes:
    """Return the bytes of a path or a URI."""
    if not _is_uri(path):
        return Path(path).read_bytes()
    system, inside = filesystem(path)
    content: bytes = system.cat_file(inside)
    return content


def _read(path: str, base: str) -> bytes:
    if not _is_uri(path):
        return (Path(base) / path).read_bytes()
    for tries_before in range(_READ_TRIES - 1):
        try:
            return read_file(path)
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except OSError:
            time.sleep(_FIRST_WAIT_S * 2**tries_before)
    return read_file(path)


def _is_uri(text: str) -> bool:
    return "://" in text


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - of a URI too


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename}: {_reason(error)}; make it readable, or give a list of files") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _unreachable(uri: str, error: Exception) -> MissingCapability:
    reason = (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
    return MissingCapability(
        f"{uri}: cannot be read ({reason}); give the credentials that its driver looks for, such as AWS_PROFILE or "
        "GOOGLE_APPLICATION_CREDENTIALS, and check the name"
    )
