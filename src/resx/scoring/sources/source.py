"""Where the images of `resx predict` come from, and in which order.

A source is listed once, before the first image is read; a row's number is its place in that listing, and the
listing's hash and the files' fingerprint say on `--resume` whether it is still the same. The paths, sizes and times are
held, about 130 bytes an image. Parquet files are `resx.scoring.sources.parquet`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from resx.files.fingerprint import Fingerprint

CHANGED = "changed after this run started"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image that is to be scored."""

    path: str
    """As the output shows it."""
    read: Callable[[], bytes]
    """Gives the file's bytes; called in another thread."""
    held_bytes: int = 0
    """What it keeps in memory until it is read."""


class ImageSource(Protocol):
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

    def part(self, start: int, stop: int) -> ImageSource:
        """Return the rows from `start` to before `stop`, without what only the others need."""

    def for_other_machines(self) -> ImageSource:
        """Return the same rows without the times of files: a copy elsewhere has others."""

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""
