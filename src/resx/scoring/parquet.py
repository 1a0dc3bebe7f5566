"""Images that lie in Parquet files as a column of bytes; beside it a column of paths, if there is one.

The column may also be a structure with a field `bytes`, as Hugging Face's datasets write images. Rows are read in
batches, so that neither a file nor a row group has to fit into memory whole.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from resx.errors import UsageError
from resx.listing import printable
from resx.scoring.source import Row
from resx.scoring.uri import filesystem, is_remote, local_path, without_secrets

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

_ROWS_AT_ONCE = 64
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
    skipped: int = 0
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
        columns = [self.column, *([self.path_column] if self.path_column else [])]
        with open_table(file) as table:
            sizes = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
            wanted = [
                (number, before)
                for number, (size, before) in enumerate(zip(sizes, _sums(sizes), strict=True))
                if before < last and before + size > first
            ]
            number = wanted[0][1]
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group for group, _ in wanted], columns=columns):
                images = _bytes_of(batch.column(self.column))
                paths = batch.column(self.path_column) if self.path_column else None
                for place in range(batch.num_rows):
                    if first <= number < last:
                        path = paths[place].as_py() if paths is not None else None
                        name = printable(path) if isinstance(path, str) else f"{printable(file)}#{number}"
                        yield Row(path=name, read=partial(_content, images[place]))
                    number += 1


def open_tables(files: Sequence[str], column: str, *, skipped: int, hidden: int) -> Tables:
    """Return the rows of Parquet files that all have the same column of bytes.

    Raises:
        UsageError: a file is no Parquet, or has no such column.
    """
    digest, counts, chosen = hashlib.sha256(), [], column
    paths = True
    for file in files:
        with open_table(file) as table:
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


def open_table(file: str) -> ParquetFile:
    """Open a Parquet file, here or wherever fsspec reads.

    Raises:
        UsageError: it is none.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if is_remote(file):
            system, path = filesystem(file)
            return parquet.ParquetFile(system.open(path, "rb"))
        return parquet.ParquetFile(local_path(file))
    except UnicodeEncodeError as error:
        raise UsageError(f"{file}: pyarrow cannot open a name with bytes that are no UTF-8; rename it") from error
    except (pa.ArrowException, OSError) as error:
        reason = without_secrets(str(error).partition("\n")[0])
        raise UsageError(f"{without_secrets(file)}: no Parquet file ({reason}); give one") from error


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


def _content(image: pa.Scalar) -> bytes:
    content = image.as_py()
    if content is None:
        raise FileNotFoundError(2, "no bytes in this row")
    return bytes(content)


def _sums(counts: Sequence[int]) -> list[int]:
    """Return how many come before each."""
    return [0, *itertools.accumulate(counts)][: len(counts)]
