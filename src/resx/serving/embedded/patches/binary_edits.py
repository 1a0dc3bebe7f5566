"""Bytes of one known file, looked at and replaced: how the patches here are written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from resx.errors import MissingCapability


class Edit(NamedTuple):
    """One change in a file."""

    at: int
    """The offset."""
    before: bytes
    after: bytes


def rewrite(path: Path, edits: Iterable[Edit]) -> None:
    """Write all edits into the file, or none.

    Raises:
        MissingCapability: it does not have what stands there before the edits, so it is another file.
    """
    content = bytearray(path.read_bytes())
    for at, before, after in edits:
        if content[at : at + len(before)] != before:
            raise of_another_wheel(path)
        content[at : at + len(after)] = after
    path.write_bytes(content)


def of_another_wheel(path: Path) -> MissingCapability:
    """Return the error for a file that the patches were not made for."""
    return MissingCapability(
        f"{path.name}: from a different wheel than resx's patches support; set RESX_UNPATCHED=1 to serve without them"
    )
