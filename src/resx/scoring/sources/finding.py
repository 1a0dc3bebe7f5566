"""From the user's words to a source."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from urllib.parse import unquote

from resx.errors import UsageError, reason_of
from resx.files.fingerprint import FileFacts, facts_in, fingerprint_of
from resx.files.listing import IMAGE_SUFFIXES, Listing, count_suffixes, expand, list_files, read_lines, skipped_words
from resx.files.reading import MAX_LIST_BYTES, MAX_LIST_LINES
from resx.scoring.sources.files import files_of
from resx.scoring.sources.source import ImageSource
from resx.scoring.sources.uri import (
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

_SPLIT = "split the list, or give a folder or a glob"


def find_source(text: str, column: str, images_from: str = "") -> ImageSource:
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
        source: ImageSource = replace(files_of(listed, is_list=True, hidden=hidden), unwatched=num_unasked(lines))
    else:
        images = [one for one in found if suffix_of(one[0]) in IMAGE_SUFFIXES]
        tables = [name for name in names if suffix_of(name) == ".parquet"]
        if tables and not images:
            from resx.scoring.sources.parquet import open_tables

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
        return sorted(found, key=itemgetter(0)), hidden
    listing = _local(text)
    scheme = text.partition("://")[0] + "://" if is_uri(text) else ""
    try:
        found = [(scheme + path, _facts(path)) for path in listing.paths]
    except OSError as error:
        raise UsageError(f"{error.filename}: {_reason(error)}; give {KINDS}") from error
    named = len(found) == 1 and found[0][0] in (text, scheme + local_path(text))
    if named and suffix_of(found[0][0]) not in SUFFIXES:
        raise UsageError(f"{text}: unknown kind of source; give {KINDS}")
    return sorted(found, key=itemgetter(0)), listing.hidden


def _local(text: str) -> Listing:
    """Return what a path names: a folder's files, itself if it exists, else what it matches as a glob."""
    path = local_path(text)
    if Path(path).is_dir():
        return list_files(path)
    if os.path.lexists(path) or not glob.has_magic(path):
        return Listing(paths=(path,), hidden=0)
    found = expand(path)
    return expand(unquote(path, errors="surrogateescape")) if not found.paths and is_uri(text) else found


def _facts(path: str) -> FileFacts:
    # A link that leads nowhere is a row with an error; a source that is nothing else is refused.
    return facts_in(os.lstat(path) if Path(path).is_symlink() and not Path(path).exists() else Path(path).stat())


def _lines(path: str) -> list[str]:
    shown = without_secrets(path)
    try:
        content = read_file(path, MAX_LIST_BYTES, remedy=_SPLIT)
    except OSError as error:
        raise UsageError(f"{shown}: {_reason(error)}; give a text file with one path per line") from error
    if (num_lines := content.count(b"\n")) > MAX_LIST_LINES:
        raise UsageError(f"{shown}: a list of {num_lines:,} lines: the limit is {MAX_LIST_LINES:,}; {_SPLIT}")
    try:
        return read_lines(content)
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None


def _reason(error: OSError) -> str:
    return without_secrets(reason_of(error))
