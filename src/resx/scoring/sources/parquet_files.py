"""A Parquet file that is open: that it is the one which was listed, and how large its pages are.

A page has to fit into memory whole, so its size is looked at before it is read (`parquet_pages.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from resx.errors import ResxError, UsageError, first_line
from resx.files.fingerprint import FileFacts, facts_in, facts_of
from resx.files.reading import read_limits, require_regular
from resx.scoring.sources.parquet_columns import ImageColumn
from resx.scoring.sources.parquet_pages import DamagedPageError, pages_of
from resx.scoring.sources.source import CHANGED
from resx.scoring.sources.uri import filesystem, is_remote, local_path, remote_facts, without_secrets

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_PAGE_PER_FILE = 16
"""Bytes of a page for each that an image's file may have: a writer may put a thousand images into one page."""


def table_facts(file: str, content: BinaryIO) -> FileFacts:
    """Return the facts of a Parquet file that is open, with its footer's hash."""
    size = content.seek(0, os.SEEK_END)
    content.seek(max(0, size - 8))
    length = int.from_bytes(content.read(8)[:4], "little")
    content.seek(max(0, size - 8 - length))
    footer = hashlib.sha256(content.read(min(size, length + 8))).hexdigest()
    facts = remote_facts(file) if is_remote(file) else facts_in(os.fstat(content.fileno()))
    return FileFacts(size=size, time=facts.time, mark=f"{facts.mark} footer {footer}".strip())


def require_unchanged(file: str, content: BinaryIO, facts: FileFacts) -> None:
    """Check that a file is the one that was listed.

    Raises:
        ResxError: it was written meanwhile.
    """
    if is_remote(file) or not facts.time:
        return
    for now in (facts_in(os.fstat(content.fileno())), facts_of(local_path(file))):
        if (now.size, now.time) != (facts.size, facts.time):
            raise ResxError(
                f"{file}: {CHANGED}; finished parts are kept: restore the file and --resume, or --overwrite"
            )


@contextlib.contextmanager
def open_table(file: str) -> Iterator[tuple[ParquetFile, BinaryIO]]:
    """Open a Parquet file, here or wherever fsspec reads; beside it the file itself.

    Raises:
        UsageError: it is none.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with contextlib.ExitStack() as opened:
        try:
            if is_remote(file):
                system, path = filesystem(file)
                content = opened.enter_context(system.open(path, "rb"))
                table = parquet.ParquetFile(content, page_checksum_verification=True)
            else:
                require_regular(local_path(file), name=file)
                content = opened.enter_context(Path(local_path(file)).open("rb"))
                table = opened.enter_context(parquet.ParquetFile(local_path(file), page_checksum_verification=True))
        except UnicodeEncodeError as error:
            raise UsageError(f"{file}: pyarrow cannot open a file whose name is not valid UTF-8; rename it") from error
        except (pa.ArrowException, OSError) as error:
            reason = without_secrets(first_line(error))
            raise UsageError(f"{without_secrets(file)}: not a Parquet file ({reason}); give one") from error
        yield table, content


@contextlib.contextmanager
def tell_failure(file: str) -> Iterator[None]:
    """Say in one line that a file cannot be read on: the disk or the network fails, not the file."""
    try:
        yield
    except OSError as error:
        reason = without_secrets(error.strerror or first_line(error))
        raise ResxError(
            f"{without_secrets(file)}: cannot be read ({reason}); finished parts are kept: continue with --resume"
        ) from error


def most_page_bytes() -> int:
    """Return how many bytes a page may have, unpacked."""
    return _PAGE_PER_FILE * read_limits().file_bytes


def largest_page(
    content: BinaryIO, table: ParquetFile, group: int, columns: Sequence[str]
) -> tuple[int, DamagedPageError | None]:
    """Return the bytes of the largest page, unpacked, and the first header that cannot be read."""
    about = table.metadata.row_group(group)
    largest, damage = 0, None
    for chunk in (about.column(place) for place in range(about.num_columns)):
        if chunk.path_in_schema in columns:
            try:
                for page in pages_of(content, chunk):
                    largest = max(largest, page.unpacked_bytes)
            except DamagedPageError as error:
                damage = damage or error
    return largest, damage


def names_files(table: ParquetFile, group: int, column: ImageColumn) -> bool:
    """Say whether bytes may be null in a row group, so that the paths beside them are wanted."""
    if not column.has_path:
        return False
    about = table.metadata.row_group(group)
    chunk = next(
        chunk for place in range(about.num_columns) if (chunk := about.column(place)).path_in_schema == column.leaf
    )
    known = chunk.statistics
    return known is None or not known.has_null_count or known.null_count > 0
