"""Images that a table names by their paths in place of holding their bytes, as Hugging Face's `datasets` may.

A table comes from anybody, so its paths lead into one folder alone: the table's, or the one that the user names. That
also holds for what links lead to. In a bucket it is the table's "folder", and no URI leads elsewhere.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from resx.data.image_decoding import SMALLER_FILE
from resx.errors import UsageError
from resx.files.fingerprint import MISSING, FileFacts
from resx.files.reading import read_limits
from resx.scoring.sources.uri import ask_facts, is_remote, is_uri, local_path, read_file, without_secrets

_REFUSAL = "not read: outside the folder {}; use --images-from"


def read_named(path: str, table: str, folder: str, name: str) -> bytes:
    """Return the bytes of the file that a table names.

    Args:
        path: as the table has it.
        table: the table's file.
        folder: that it may lead into; empty: the table's.
        name: of the row.

    Raises:
        UsageError: it leads elsewhere, or is too large or no regular file.
        OSError: it cannot be read.
    """
    return read_file(_place(path, table, folder), read_limits().file_bytes, remedy=SMALLER_FILE, name=name)


def named_facts(paths: Sequence[str], table: str, folder: str) -> list[FileFacts]:
    """Return the facts of files that a table names; nothing is known of those that may not be read."""
    places: list[str | None] = []
    for path in paths:
        try:
            places.append(_place(path, table, folder))
        except UsageError:
            places.append(None)
    known = iter(ask_facts([place for place in places if place is not None]))
    return [MISSING if place is None else next(known) for place in places]


def _place(path: str, table: str, folder: str) -> str:
    if "\0" in path:
        raise UsageError("the path in this row contains a NUL byte")
    root = folder or (table if is_remote(table) else local_path(table)).rpartition("/")[0]
    if is_remote(root):
        return _remote_place(path, root)
    if is_remote(path):
        raise UsageError(f"{without_secrets(path)}: URIs inside a table are not fetched; list them in a .txt file")
    top, place = Path(root or ".").resolve(), Path(root or ".", local_path(path))
    if not place.resolve().is_relative_to(top):
        raise UsageError(_REFUSAL.format(os.path.relpath(top)))
    return str(place)


def _remote_place(path: str, root: str) -> str:
    scheme, _, inside = root.partition("://")
    below = path if is_uri(path) else f"{root}/{path}"
    its_scheme, _, place = below.partition("://")
    if its_scheme != scheme or not posixpath.normpath(place).startswith(posixpath.normpath(inside) + "/"):
        raise UsageError(_REFUSAL.format(without_secrets(root)))
    return below
