"""Images that lie in Parquet files as a column of bytes; beside it a column of paths, if there is one.

The column may also be a structure with a field `bytes`, as Hugging Face's datasets write images. Rows are read in
batches, so that neither a file nor a row group has to fit into memory whole. A page has to, so its size is looked at
first (`resx.scoring.parquet_pages`), and decides how many rows are read at once: a page may be a dictionary, of which
each row is a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from resx.errors import UsageError
from resx.listing import printable
from resx.reading import MIB, read_limits, require_regular
from resx.scoring.parquet_pages import DamagedPageError, largest_page
from resx.scoring.source import Row
from resx.scoring.uri import filesystem, is_remote, local_path, without_secrets
from resx.training.images import SMALLER_FILE

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

_ROWS_AT_ONCE, _BYTES_AT_ONCE = 64, 128 * MIB
_PAGE_PER_FILE = 16
"""Bytes of a page for each that an image's file may have: a writer may put a thousand images into one page."""
_SMALLER_PAGES = "write it with smaller row groups, or raise --max-file-mib"
PATH = "path"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Rows of Parquet files, one file after the other."""

    files: tuple[str, ...]
    counts: tuple[int, ...]
    """Rows of each file."""
    start: int
    stop: int
    """The rows of all files together that are meant."""
    column: str
    path_column: str
    """Empty: a row is called FILE#NUMBER."""
    sha256: str
    skipped: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0

    @property
    def num_rows(self) -> int:
        """How many images there are."""
        return self.stop - self.start

    @property
    def is_remote(self) -> bool:
        """False: the reading is done here, not in the threads that decode."""
        return False

    def part(self, start: int, stop: int) -> Tables:
        """Return the rows from `start` to before `stop`."""
        return Tables(
            files=self.files, counts=self.counts, start=self.start + start, stop=self.start + stop,
            column=self.column, path_column=self.path_column, sha256=self.sha256,
        )  # fmt: skip

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""
        for file, count, before in zip(self.files, self.counts, _sums(self.counts), strict=True):
            first, last = max(0, self.start - before), min(count, self.stop - before)
            if first < last:
                yield from self._rows_of(file, first, last)

    def _rows_of(self, file: str, first: int, last: int) -> Iterator[Row]:
        with open_table(file) as (table, content), _damage_told(file):
            leaf = _leaf(table.schema_arrow, self.column)
            before = 0
            for group in range(table.num_row_groups):
                num_rows = table.metadata.row_group(group).num_rows
                wanted = range(max(first, before), min(last, before + num_rows))
                if wanted:
                    yield from self._rows_of_group(file, table, content, group, before, wanted, leaf)
                before += num_rows

    def _rows_of_group(
        self, file: str, table: ParquetFile, content: BinaryIO, group: int, before: int, wanted: range, leaf: str
    ) -> Iterator[Row]:
        """Give rows of one row group, whose first row has the number `before`.

        What would unpack to too much is not unpacked: its rows are errors.
        """
        limit = _PAGE_PER_FILE * read_limits().file_bytes
        columns = [leaf, *([self.path_column] if self.path_column else [])]
        page_bytes = _largest_page(content, table, group, columns)
        if page_bytes > limit:
            reason = f"a page of {page_bytes:,} bytes, unpacked: the limit is {limit:,}; {_SMALLER_PAGES}"
            for number in wanted:
                yield Row(path=f"{printable(file)}#{number}", read=partial(_refuse, reason))
            return
        number, at_once = before, max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, page_bytes)))
        for batch in table.iter_batches(at_once, row_groups=[group], columns=columns):
            images = _bytes_of(batch.column(self.column))
            paths = batch.column(self.path_column) if self.path_column else None
            for place in range(batch.num_rows):
                if number in wanted:
                    path = paths[place].as_py() if paths is not None else None
                    name = printable(path) if isinstance(path, str) else f"{printable(file)}#{number}"
                    yield _row(name, images[place])
                number += 1


def _largest_page(content: BinaryIO, table: ParquetFile, group: int, columns: Sequence[str]) -> int:
    about = table.metadata.row_group(group)
    chunks = (about.column(place) for place in range(about.num_columns))
    return max((largest_page(content, chunk) for chunk in chunks if chunk.path_in_schema in columns), default=0)


def _row(name: str, image: pa.Scalar) -> Row:
    """Return a row with a copy of its bytes: a slice would keep its whole batch in memory until it is read."""
    buffer = image.as_buffer() if image.is_valid else None
    limit = read_limits().file_bytes
    if buffer is not None and buffer.size > limit:
        return Row(
            path=name, read=partial(_refuse, f"file of {buffer.size:,} bytes: the limit is {limit:,}; {SMALLER_FILE}")
        )
    content = None if buffer is None else buffer.to_pybytes()
    return Row(path=name, read=partial(_content, content), held_bytes=len(content or b""))


def open_tables(files: Sequence[str], column: str, *, skipped: Mapping[str, int], hidden: int) -> Tables:
    """Return the rows of Parquet files that all have the same column of bytes.

    Raises:
        UsageError: a file is no Parquet, or has no such column.
    """
    digest, counts, chosen = hashlib.sha256(), [], column
    paths = True
    for file in files:
        with open_table(file) as (table, content):
            _require_images(table, content, file)
            chosen = _image_column(table, file, chosen)
            paths = paths and PATH in table.schema_arrow.names and _is_text(table.schema_arrow.field(PATH).type)
            counts.append(table.metadata.num_rows)
            sizes = [table.metadata.row_group(number).total_byte_size for number in range(table.num_row_groups)]
            digest.update(f"{printable(file)}\0{table.metadata.num_rows}\0{sizes}\0{chosen}\n".encode())
    return Tables(
        files=tuple(files), counts=tuple(counts), start=0, stop=sum(counts), column=chosen,
        path_column=PATH if paths else "", sha256=digest.hexdigest(), skipped=skipped,
        hidden=hidden,
    )  # fmt: skip


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
                table = parquet.ParquetFile(content)
            else:
                require_regular(local_path(file), name=file)
                content = opened.enter_context(Path(local_path(file)).open("rb"))
                table = opened.enter_context(parquet.ParquetFile(local_path(file)))
        except UnicodeEncodeError as error:
            raise UsageError(f"{file}: pyarrow cannot open a name with bytes that are no UTF-8; rename it") from error
        except (pa.ArrowException, OSError) as error:
            reason = without_secrets(str(error).partition("\n")[0])
            raise UsageError(f"{without_secrets(file)}: no Parquet file ({reason}); give one") from error
        yield table, content


@contextlib.contextmanager
def _damage_told(file: str) -> Iterator[None]:
    """Translate what Arrow says of a damaged page."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, DamagedPageError, OSError) as error:
        reason = without_secrets(str(error).partition("\n")[0])
        raise UsageError(f"{without_secrets(file)}: damaged Parquet file ({reason}); copy or write it again") from error


def _image_column(table: ParquetFile, file: str, wanted: str) -> str:
    schema = table.schema_arrow
    having = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted and wanted not in having:
        raise UsageError(f"{file}: no column {wanted!r} of bytes; there is {', '.join(having) or 'none'}")
    if not having:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UsageError(f"{file}: no column of bytes among {columns}; write the images' files into one")
    if not wanted and len(having) > 1:
        raise UsageError(f"{file}: bytes in {', '.join(having)}; say which by --column")
    return wanted or having[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _bytes_of(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    return column.field("bytes") if pa.types.is_struct(column.type) else column


def _leaf(schema: pa.Schema, column: str) -> str:
    """Return the column that is read: of a structure its bytes alone, whatever else lies in it."""
    import pyarrow as pa

    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def _content(content: bytes | None) -> bytes:
    if content is None:
        raise FileNotFoundError(2, "no bytes in this row")
    return content


def _refuse(reason: str) -> bytes:
    raise UsageError(reason)


def _require_images(table: ParquetFile, content: BinaryIO, file: str) -> None:
    """Check that there can be as many images as there are rows: a row of nothing takes no space."""
    size = content.seek(0, os.SEEK_END)
    if not 0 <= table.metadata.num_rows <= size:
        raise UsageError(
            f"{without_secrets(file)}: {table.metadata.num_rows:,} rows in {size:,} bytes; give a file with an image "
            "in each row"
        )


def _sums(counts: Sequence[int]) -> list[int]:
    """Return how many come before each."""
    return [0, *itertools.accumulate(counts)][: len(counts)]
