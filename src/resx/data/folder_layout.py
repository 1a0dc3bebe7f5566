"""Which folders of a data set are its parts (training, held out) and which are its classes.

    DIR/train/CLASS and DIR/val/CLASS    two parts
    DIR/train/CLASS                      one part, of which some images are held out
    DIR/CLASS                            the same

A part is known by the names that people use, in any case of letters: `Training`, `valid`, `dev`, `test_set`, `val2017`.
So no class can have such a name: a network that tells "train" from "test" is nobody's wish. Where a class has one
(a train, on rails), the classes go into DIR/train/ and DIR/val/; below these any name is a class's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from resx.errors import UsageError
from resx.text import one_line

Part: TypeAlias = Literal["train", "val", "test"]

_ROLES: dict[str, Part] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val", "eval": "val",
    "evaluation": "val", "heldout": "val", "holdout": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_NAME = re.compile(rf"({'|'.join(sorted(_ROLES, key=len, reverse=True))})(set|data|dataset|images?|imgs?|split)?\d*")
_SEPARATORS = re.compile(r"[-_. ]+")
_REMEDY = "use DIR/train/CLASS and DIR/val/CLASS, or only DIR/CLASS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where a data set's classes are."""

    parts: tuple[Path, ...]
    """The folder of what is trained on and that of what is held out; one folder if it is to be divided."""
    notes: tuple[str, ...] = ()
    """What is not obvious, a sentence each."""


def part_of(name: str) -> Part | None:
    """Return the part of a data set that a folder of this name is; None for a class's name."""
    found = _NAME.fullmatch(_SEPARATORS.sub("", name.casefold()))
    return _ROLES[found[1]] if found else None


def find_layout(root: Path, folders: Sequence[Path]) -> Layout:
    """Tell the parts of a data set from its classes.

    Args:
        root: the data set.
        folders: those directly in it.

    Raises:
        UsageError: they can be taken for either, or a part is there twice or missing.
    """
    named: dict[Part, list[Path]] = {"train": [], "val": [], "test": []}
    others: list[Path] = []
    for folder in folders:
        part = part_of(folder.name)
        (named[part] if part else others).append(folder)
    _require_no_pair(root, others)
    if not any(named.values()):
        return Layout(parts=(root,))
    held_out = named["val"] or named["test"]
    if others and not (named["train"] and held_out):
        parts = [folder for several in named.values() for folder in several]
        raise UsageError(
            f"{root}: {_names(parts)} looks like a split of a data set, and {_names(others)} like a class; "
            f"if all are classes, put them into DIR/train/; otherwise {_REMEDY}"
        )
    if not named["train"]:
        raise UsageError(f"{root}: {_names(held_out)} without train/; {_REMEDY}")
    for several in (named["train"], held_out):
        if len(several) > 1:
            raise UsageError(f"{root}: {_names(several)}: ambiguous; keep one of them; {_REMEDY}")
    (train,) = named["train"]
    if not held_out:
        return Layout(
            parts=(train,),
            notes=(f"No val/ beside {one_line(train.name)}/: every fifth image of each class is held out",),
        )
    notes = []
    if not named["val"]:
        notes.append(
            f"Held out: {_names(held_out)}, because there is no val/; the best epoch is chosen on these images"
        )
    elif (train.name, held_out[0].name) != ("train", "val"):
        notes.append(f"Trained on: {_names([train])}, held out: {_names(held_out)}")
    if unused := (*others, *(named["test"] if named["val"] else ())):
        notes.append(f"Not used: {_names(unused)}")
    return Layout(parts=(train, *held_out), notes=tuple(notes))


def require_undivided(root: Path, folder: Path, images: Sequence[Path]) -> None:
    """Check that a class's folder is not itself parted into what is to be trained on and what is to be held out.

    Raises:
        UsageError: it is.
    """
    inside = {path.relative_to(folder).parts[0] for path in images if path.parent != folder}
    parts = {part_of(name) for name in inside} - {None}
    if "train" in parts and len(parts) > 1:
        names = _names([folder / name for name in sorted(inside) if part_of(name)])
        raise UsageError(f"{root}: class '{one_line(folder.name)}' is split into {names}; {_REMEDY}")


def _require_no_pair(root: Path, folders: Sequence[Path]) -> None:
    """Check that no two names differ in a part's name only: `seg_train` and `seg_test`.

    Raises:
        UsageError: two do.
    """
    found: dict[tuple[str, ...], dict[Part, Path]] = {}
    for folder in folders:
        words = _SEPARATORS.split(folder.name.casefold())
        if len(parts := [word for word in words if word in _ROLES]) == 1:
            rest = tuple("" if word in _ROLES else word for word in words)
            found.setdefault(rest, {})[_ROLES[parts[0]]] = folder
    for pair in found.values():
        if "train" in pair and len(pair) > 1:
            raise UsageError(f"{root}: {_names(list(pair.values()))} look like splits of a data set; {_REMEDY}")


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(f"{one_line(folder.name)}/" for folder in folders[:3]) + (", ..." if len(folders) > 3 else "")
