"""A data set: a training part, a held-out part, and what a network needs to know of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.files.fingerprint import Fingerprint
from resx.files.listing import skipped_words
from resx.text import one_line
from resx.zoo.spec import ImageFormat

BadImages: TypeAlias = Literal["refuse", "skip", "unchecked"]
"""What becomes of files that cannot be decoded; `unchecked` finds out when one is asked for."""

Checksum: TypeAlias = Literal["published", "gzip", "none"]
"""What says that an archive is not damaged."""

_CHECKSUMS: dict[Checksum, str] = {
    "published": "Checksum: the published MD5 of the official archive",
    "gzip": "Checksum: gzip's own (this is not the official archive)",
    "none": "warning: no checksum: these are not the official files, so damaged pixels would go unnoticed; pack the "
    "folder as a .tar.gz",
}


class Images(Protocol):
    """Images that are had by indexing with a slice or an array of indices: UINT8 [N, 3, H, W].

    A numpy array is one; so is what reads files only when it is indexed.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images and their classes INT64 [N]."""

    images: Images
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A training part and a held-out part, with what a network needs to know of the images."""

    name: str
    labels: tuple[str, ...]
    image: ImageFormat
    train: Split
    held_out: Split
    validation: Split | None = None
    """A share of the training images that is not trained on; `best` is chosen on it, where there is one."""
    skipped: tuple[str, ...] = ()
    """Files that cannot be decoded and were left out."""
    hidden: int = 0
    """Hidden files and folders that were skipped."""
    others: Mapping[str, int] = field(default_factory=dict)
    """The number of files that were skipped as their names are no image's, by suffix."""
    notes: tuple[str, ...] = ()
    """What was made of a folder that is not obvious, a sentence each."""
    copies: tuple[str, ...] = ()
    """Files that are not trained on, as they are held out too, byte for byte."""
    conflicting: tuple[str, ...] = ()
    """Files of which a copy has another class."""
    checksum: Checksum | None = None
    """None for data that are no archive."""
    num_in_both: int = 0
    """Held-out images that are trained on too, pixel for pixel: an archive's parts stay as they are."""
    fingerprint: Fingerprint | None = None
    """Of the files, or of the content if all of it is in memory; `--resume` compares it."""

    @property
    def not_held_out(self) -> tuple[str, ...]:
        """The classes of which no image is held out: accuracy says nothing of them."""
        held_out = set(self.held_out.targets.tolist())
        return tuple(label for number, label in enumerate(self.labels) if number not in held_out)

    @property
    def remarks(self) -> list[str]:
        """What was left out and what looks wrong, a line each."""
        lines = list(self.notes)
        if skipped := skipped_words(self.others, self.hidden):
            lines.append(f"Skipped {skipped}")
        if self.skipped:
            lines.append(f"Skipped {_count(self.skipped, 'image')} that cannot be read: {_few(self.skipped)}")
        if self.copies:
            lines.append(
                f"Left {_count(self.copies, 'image')} out of training, of which a copy is held out: {_few(self.copies)}"
            )
        if self.conflicting:
            lines.append(
                f"warning: {_count(self.conflicting, 'image')} with the same bytes as one of another class: "
                f"{_few(self.conflicting)}"
            )
        if self.num_in_both:
            lines.append(
                f"warning: {self.num_in_both:,} held-out images are also in the training data, pixel for pixel"
            )
        if missing := self.not_held_out:
            lines.append(
                f"warning: no held-out images for {_count(missing, 'class', 'classes')} of {len(self.labels)} "
                f"({_few(missing)}): accuracy does not cover them; hold some out (val/, or 5 images per class)"
            )
        if self.checksum:
            lines.append(_CHECKSUMS[self.checksum])
        return lines


def _count(files: Sequence[str], what: str, several: str = "") -> str:
    return f"{len(files)} {what if len(files) == 1 else several or what + 's'}"


def _few(files: Sequence[str]) -> str:
    return ", ".join(map(one_line, files[:3])) + (", ..." if len(files) > 3 else "")


def pick_evenly(total: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` indices below `total`, evenly spaced: data are often in the order of their classes."""
    return np.linspace(0, total - 1, min(total, most)).astype(np.int64)
