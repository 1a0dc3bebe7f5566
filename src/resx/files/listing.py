"""Names and folders as a disk has them: what is listed, and how a name is shown.

Hidden files and folders are never listed below the folder that the user named: a name that begins with a dot
(`.git`, `.ipynb_checkpoints`, `.DS_Store`, AppleDouble's `._photo.jpg`), and `__MACOSX`, which macOS adds to archives.
They are counted, a folder as one, so that a command can say so.

What is an image is told from its name's suffix, by one rule for all commands (IMAGE_SUFFIXES). Other files are counted
by their suffixes, and `skipped_words` names those that are images in a format that nothing here reads.

A file's name is bytes. Python holds those that are no UTF-8 as lone surrogates, which neither JSON nor a terminal
takes: `printable`, `one_line` and `readable` show them escaped.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.errors import UsageError, reason_of
from resx.text import one_line

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
})  # fmt: skip
"""Of the files that are taken out of folders, globs and buckets."""
UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".hif", ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".jpc", ".j2c", ".jxl", ".jxr",
    ".wdp", ".hdp", ".svg", ".svgz", ".ico", ".icns", ".tga", ".psd", ".psb", ".eps", ".exr", ".hdr", ".pfm", ".pam",
    ".dds", ".dib", ".pcx", ".qoi", ".bpg", ".xcf", ".sgi", ".xbm", ".xpm", ".wmf", ".emf", ".dcm", ".dicom", ".fits",
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw",
})  # fmt: skip
"""Of images that nothing here reads."""
_MOST_SUFFIXES = 100
"""A folder may have a suffix for each of a million files: frame.000001."""
_OTHER = "other"
_ARCHIVE_OF_MACOS = "__MACOSX"
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Files that were found, and what was passed over."""

    paths: tuple[str, ...]
    """In no order that means anything, but always the same one."""
    hidden: int
    """Hidden files and folders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageListing:
    """Images that were found below a folder, and what was passed over."""

    paths: tuple[Path, ...]
    """Ordered by path."""
    hidden: int
    """Hidden files and folders."""
    others: Mapping[str, int]
    """The number of other files, by suffix."""

    @property
    def skipped(self) -> str:
        """What was passed over, in words; empty for nothing."""
        return skipped_words(self.others, self.hidden)


def is_hidden(name: str) -> bool:
    """Say whether a file or folder of this name is skipped wherever files are listed."""
    return name.startswith(".") or name == _ARCHIVE_OF_MACOS


def count_suffixes(suffixes: Iterable[str]) -> dict[str, int]:
    """Return how often each suffix is there, the most frequent first; rare ones together if there are very many."""
    return _most_frequent(Counter(map(one_line, suffixes)))


def add_counts(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of such counts."""
    total: Counter[str] = Counter()
    for counts in several:
        total.update(counts)
    return _most_frequent(total)


def skipped_words(others: Mapping[str, int], hidden: int) -> str:
    """Return in words what was not taken: files that are no images, by suffix, and hidden ones; empty for none."""
    unread = {suffix: count for suffix, count in others.items() if suffix in UNREAD_SUFFIXES}
    rest = [suffix for suffix in others if suffix not in unread]
    parts = []
    if rest:
        number = sum(others[suffix] for suffix in rest)
        named = ", ".join(suffix or "no suffix" for suffix in rest[:3]) + (", ..." if len(rest) > 3 else "")
        parts.append(f"{number} non-image file{'s' * (number != 1)} ({named})")
    if hidden:
        parts.append(f"{hidden} hidden file{'s' * (hidden != 1)} or folder{'s' * (hidden != 1)}")
    parts += [f"{count} {suffix} file{'s' * (count != 1)}" for suffix, count in unread.items()]
    words = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
    return words + (
        ": convert " + ("it" if sum(unread.values()) == 1 else "them") + " to JPEG or PNG" if unread else ""
    )


def list_files(root: str | Path, *, skips: Callable[[str], bool] = is_hidden) -> Listing:
    """Return the files at any depth below a folder, those behind linked folders too.

    Each folder is listed once, however many links lead to it, so links that form a loop end. A link that leads nowhere
    is a file: whoever opens it says so. Pipes, sockets and devices are left out.

    Args:
        root: the folder; its own name and those above it may be hidden.
        skips: says which names are passed over.

    Raises:
        UsageError: a folder cannot be read.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    hidden = 0
    # Real folders first: a file is then listed under its own path rather than under a link's.
    waiting, linked = [str(root)], list[str]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            facts = Path(folder).stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = reason_of(error)
            raise UsageError(f"{folder}: {reason}; make it readable, or list the files in a .txt") from error
        for entry in inside:
            if skips(entry.name):
                hidden += 1
            elif _is_folder(entry):
                (linked if entry.is_symlink() else waiting).append(entry.path)
            elif entry.is_file(follow_symlinks=False) or is_file(entry.path):
                found.append(entry.path)
    return Listing(paths=tuple(found), hidden=hidden)


def list_images(root: Path) -> ImageListing:
    """Return the images at any depth below a folder, those behind linked folders too.

    Raises:
        UsageError: a folder cannot be read.
    """
    listed = list_files(root)
    return images_of(map(Path, listed.paths), listed.hidden)


def images_of(paths: Iterable[Path], hidden: int) -> ImageListing:
    """Part files into images and others."""
    taken, left = list[Path](), list[str]()
    for path in paths:
        if (suffix := path.suffix.lower()) in IMAGE_SUFFIXES:
            taken.append(path)
        else:
            left.append(suffix)
    return ImageListing(paths=tuple(sorted(taken)), hidden=hidden, others=count_suffixes(left))


def list_folders(root: Path) -> tuple[list[Path], ImageListing]:
    """Return the folders directly in a folder, links to folders among them, and what lies beside them.

    Raises:
        UsageError: the folder cannot be read.
    """
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise UsageError(f"{root}: {reason_of(error)}; make it readable") from error
    shown = [path for path in entries if not is_hidden(path.name)]
    folders = [path for path in shown if path.is_dir()]
    return folders, images_of((path for path in shown if not path.is_dir()), len(entries) - len(shown))


def expand(pattern: str) -> Listing:
    """Return the files that a glob matches; `**` is any number of folders. Hidden ones only where the glob names them.

    Raises:
        UsageError: a folder below `**` cannot be read.
    """
    parts = pattern.split("/")
    skips = named_by(parts)
    deep = next((place for place, part in enumerate(parts) if part == "**"), len(parts))
    start, rest = "/".join(parts[:deep]) or ("/" if pattern.startswith("/") else "."), parts[deep:]
    named, hidden = [start], 0
    if glob.has_magic(start):
        # Without `**` the depth is the pattern's, so glob cannot go round in a loop of links.
        matched = sorted(glob.glob(start, include_hidden=True))  # noqa: PTH207
        literal = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        named = [path for path in matched if not any(map(skips, path.split("/")[literal:]))]
        hidden = len(matched) - len(named)
    if not rest:
        return Listing(paths=tuple(path for path in named if is_file(path)), hidden=hidden)
    found: list[str] = []
    for folder in (path for path in named if Path(path).is_dir()):
        listed = list_files(folder, skips=skips)
        hidden += listed.hidden
        above = "" if parts[0] == "**" else folder.rstrip("/") + "/"
        names = [path.removeprefix("./") if not above else path for path in listed.paths]
        found += [name for name in names if matches(name.removeprefix(above).split("/"), rest)]
    return Listing(paths=tuple(found), hidden=hidden)


def named_by(parts: Sequence[str]) -> Callable[[str], bool]:
    """Return what says whether a name is hidden and no part of a pattern asks for it by writing what hides it."""
    asked = [part for part in parts if is_hidden(part)]
    return lambda name: is_hidden(name) and not any(fnmatch.fnmatchcase(name, part) for part in asked)


def matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Say whether a path's names match a pattern's parts, of which `**` stands for any number of names."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(matches(names[place:], parts[1:]) for place in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and matches(names[1:], parts[1:])


def read_lines(content: bytes) -> list[str]:
    r"""Return the lines of a list: one line is one name, with the blanks that are in it.

    Only LF and CR LF end a line: a name may hold every other separator (U+2028, VT, FF, NEL). Empty lines and the
    mark that some editors write at the start of UTF-8 are left out. Bytes that are no UTF-8 stay what they are.

    Raises:
        UsageError: it is UTF-16 or binary; the message has no name of the file.
    """
    if content.startswith(_UTF16_MARKS) or b"\0" in content:
        raise UsageError("not UTF-8 text (UTF-16 or binary?); save it as UTF-8 with one name per line")
    text = content.removeprefix(_UTF8_MARK).decode("utf-8", "surrogateescape")
    return [line for line in re.split(r"\r?\n", text) if line]


def is_file(path: str) -> bool:
    """Say whether a path is a file, or a link that leads nowhere: whoever opens it says so."""
    found = Path(path)
    return found.is_file() or (found.is_symlink() and not found.exists())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _most_frequent(counted: Counter[str]) -> dict[str, int]:
    counts = counted.most_common()
    rest = sum(count for _, count in counts[_MOST_SUFFIXES:])
    found = dict(counts[:_MOST_SUFFIXES])
    return found | {_OTHER: found.get(_OTHER, 0) + rest} if rest else found
