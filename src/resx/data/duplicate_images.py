"""Images that are there more than once, byte for byte.

An image that is trained on and held out makes the held-out accuracy too good. Of such copies the training part's go:
the held-out images are what runs are compared on, so they stay as they are.

A folder of a million images is not read for this: only files of equal size are opened, of those only the last few
kilobytes are read (an image's end is its data, its beginning may be a header like the others'), and what is still equal
is hashed whole.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from resx.files.staging import sha256_of

Labelled: TypeAlias = Sequence[tuple[Path, int]]
"""Image files with the numbers of their classes."""
_END_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """What is in a data set more than once."""

    held_out_too: tuple[Path, ...]
    """The training files of which a copy is held out, in their order."""
    conflicting: tuple[Path, ...]
    """The files of which a copy has another class, sorted: one of the two labels is wrong."""


def find_copies(train: Labelled, held_out: Labelled) -> Copies:
    """Compare all files of a data set with each other. A file that cannot be read is nobody's copy."""
    classes = dict([*train, *held_out])
    evaluated = {path for path, _ in held_out}
    groups = [list(classes)]
    for key in (_size, _end, sha256_of):
        groups = [finer for group in groups for finer in _part(group, key)]
    doubled = {path for group in groups if not evaluated.isdisjoint(group) for path in group}
    conflicts = [group for group in groups if len({classes[path] for path in group}) > 1]
    return Copies(
        held_out_too=tuple(path for path, _ in train if path in doubled),
        conflicting=tuple(sorted(path for group in conflicts for path in group)),
    )


def _part(paths: Iterable[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """Return the groups of two or more that have the same key."""
    found: defaultdict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            found[key(path)].append(path)
        except OSError:  # whoever decodes it says so
            continue
    return [group for group in found.values() if len(group) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        return hashlib.sha256(file.read(_END_BYTES)).digest()
