"""Which pages of a Parquet file are damaged, and the file as it would be if these were empty.

pyarrow ends at the first damaged page of a row group, though those behind it are whole. So the file is shown to it
through `Mended`, in which a damaged page's bytes are those of a page of as many nulls, or of empty values where the
column has no nulls, and the rest is another page that holds no data and is skipped
(https://github.com/apache/parquet-format, PageHeader). Which pages are damaged is found by halving: those of one half
are shown, those of the other are empty.
"""

from __future__ import annotations

import bisect
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from resx.errors import first_line
from resx.scoring.sources.parquet_pages import DamagedPageError, Page, bounds_of, pages_between, pages_of

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData, ColumnSchema, ParquetFile

_DATA_PAGE, _INDEX_PAGE, _PLAIN, _RLE = 0, 1, 0, 3
_I32, _STRUCT = 5, 12
"""Kinds of fields in Thrift's compact protocol."""
_BEGINNING = re.compile(rb"\x15[\x00\x06]\x15")
"""Of a header: the kind of page is its first field, 0 or 3, and the next is a number too."""
_MOST_SEARCHED = 256 * 2**20
_FIXED_LENGTH = "FIXED_LEN_BYTE_ARRAY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Rows of a row group that cannot be read."""

    rows: range
    """Numbered within the group."""
    reason: str


class Mended(io.RawIOBase):
    """A file in which some stretches read as other bytes, with zeros behind them."""

    def __init__(self, file: BinaryIO, stretches: Sequence[tuple[int, int, bytes]]) -> None:
        """Take the file and (start, stop, first bytes) of the stretches, which do not overlap."""
        self._file, self._stretches = file, sorted(stretches)
        self._starts = [start for start, _, _ in self._stretches]
        self._size, self._place = file.seek(0, io.SEEK_END), 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def tell(self) -> int:  # noqa: D102
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:  # noqa: D102
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1, /) -> bytes:  # noqa: D102
        stop = self._size if size < 0 else min(self._size, self._place + size)
        found = bytearray()
        while self._place < stop:
            piece = self._piece(stop)
            if not piece:
                break
            found += piece
            self._place += len(piece)
        return bytes(found)

    def _piece(self, stop: int) -> bytes:
        """Return what lies at the place, to the next border at most."""
        number = bisect.bisect_right(self._starts, self._place) - 1
        if number >= 0 and self._place < self._stretches[number][1]:
            start, end, content = self._stretches[number]
            inside, length = self._place - start, min(stop, end) - self._place
            return content[inside : inside + length].ljust(length, b"\0")
        border = self._starts[number + 1] if number + 1 < len(self._starts) else stop
        self._file.seek(self._place)
        return self._file.read(min(stop, border) - self._place)


def find_damage(
    table: ParquetFile, content: BinaryIO, group: int, leaves: Sequence[str], max_page_bytes: int
) -> tuple[Mended, list[Damage]]:
    """Return the file without the damaged pages of a row group's columns, and the rows that were in them.

    Args:
        table: the file as pyarrow opened it.
        content: the file.
        group: the row group's number.
        leaves: Parquet's names of the columns that are read; none lies in a list.
        max_page_bytes: of a page, unpacked, that is looked for behind a damaged header.

    Raises:
        DamagedPageError: there is no way to read around the damage.
    """
    about, stretches, damages = table.metadata.row_group(group), list[tuple[int, int, bytes]](), list[Damage]()
    for place in range(about.num_columns):
        chunk = about.column(place)
        if chunk.path_in_schema in leaves:
            blanks, damaged = _damaged_pages(table, content, group, chunk, table.schema.column(place), max_page_bytes)
            stretches += blanks
            damages += damaged
    return Mended(content, stretches), damages


def open_mended(file: Mended, table: ParquetFile) -> ParquetFile:
    """Open the file in place of the one that `table` is."""
    from pyarrow import parquet

    return parquet.ParquetFile(file, metadata=table.metadata, page_checksum_verification=True, pre_buffer=False)


def is_damage(error: Exception) -> bool:
    """Say whether an error is about a file's content: what a disk or a network says of itself has a number."""
    import pyarrow as pa

    if isinstance(error, OSError):
        return type(error) is OSError and error.errno is None
    return isinstance(error, (pa.ArrowException, DamagedPageError))


def damage_at(row: int, damages: Sequence[Damage]) -> Damage | None:
    """Return the damage that a row of the group is part of."""
    return next((one for one in damages if row in one.rows), None)


def _damaged_pages(
    table: ParquetFile,
    content: BinaryIO,
    group: int,
    chunk: ColumnChunkMetaData,
    column: ColumnSchema,
    max_page_bytes: int,
) -> tuple[list[tuple[int, int, bytes]], list[Damage]]:
    pages, lost = _data_pages(content, chunk, max_page_bytes)
    blanks = {page.start: (page.start, page.stop, _blank_page(page, chunk, column)) for page in (*pages, *lost)}

    def reason_to_drop(shown: Sequence[Page]) -> str:
        """Say why these pages, with all others empty, cannot be read."""
        hidden = [blank for start, blank in blanks.items() if start not in {page.start for page in shown}]
        try:
            with open_mended(Mended(content, hidden), table) as mended:
                for _ in mended.iter_batches(64, row_groups=[group], columns=[chunk.path_in_schema]):
                    pass
        except Exception as error:
            if not is_damage(error):
                raise
            return first_line(error)
        return ""

    def damaged(among: Sequence[Page]) -> list[tuple[Page, str]]:
        if not among or not (reason := reason_to_drop(among)):
            return []
        if len(among) == 1:
            return [(among[0], reason)]
        half = len(among) // 2
        return damaged(among[:half]) + damaged(among[half:])

    found = damaged(pages) + [(page, "unreadable header") for page in lost]
    if reason := reason_to_drop([page for page in pages if page not in {one for one, _ in found}]):
        raise DamagedPageError(reason)
    before, rows = 0, dict[int, range]()
    for page in sorted((*pages, *lost), key=lambda page: page.start):
        rows[page.start] = range(before, before + page.num_rows)
        before += page.num_rows
    return (
        [blanks[page.start] for page, _ in found],
        [Damage(rows=rows[page.start], reason=reason) for page, reason in found],
    )


def _data_pages(content: BinaryIO, chunk: ColumnChunkMetaData, max_page_bytes: int) -> tuple[list[Page], list[Page]]:
    """Return a chunk's data pages; and what a damaged header hides, to the next whole one, as if it were a page."""
    pages = list[Page]()
    place, end = bounds_of(chunk)
    left = chunk.num_values
    try:
        for page in pages_of(content, chunk):
            if page.num_rows > left:
                raise DamagedPageError(f"no page header at byte {page.start}")
            place = page.stop
            left -= page.num_rows
            if page.num_rows:
                pages.append(page)
    except DamagedPageError:
        behind = _pages_behind(content, place, end, left, max_page_bytes)
        left -= sum(page.num_rows for page in behind)
        if left:
            stop = behind[0].start if behind else end
            return [*pages, *behind], [Page(start=place, stop=stop, unpacked_bytes=0, num_rows=left)]
    return pages, []


def _pages_behind(content: BinaryIO, place: int, end: int, most_rows: int, max_page_bytes: int) -> list[Page]:
    """Return the pages from the first place on whose headers lead from one to the next up to the chunk's end."""
    content.seek(place)
    hidden = content.read(min(end - place, _MOST_SEARCHED))
    for found in _BEGINNING.finditer(hidden, 1):
        try:
            pages = list(pages_between(content, place + found.start(), end))
        except DamagedPageError:
            continue
        rows = sum(page.num_rows for page in pages)
        if 0 < rows <= most_rows and all(page.num_rows and page.unpacked_bytes <= max_page_bytes for page in pages):
            return pages
    return []


def _blank_page(page: Page, chunk: ColumnChunkMetaData, column: ColumnSchema) -> bytes:
    """Return a page of as many nulls or empty values, and the header of one that fills the rest and is skipped.

    Raises:
        DamagedPageError: there is no room for it, or nothing to compress it with.
    """
    import pyarrow as pa

    if column.max_definition_level:
        run = _varint(page.num_rows << 1) + b"\0"
        body = len(run).to_bytes(4, "little") + run
    else:
        body = bytes(page.num_rows * (column.length if chunk.physical_type == _FIXED_LENGTH else 4))
    packed = body
    if chunk.compression != "UNCOMPRESSED":
        try:
            packed = pa.Codec(chunk.compression.lower()).compress(body, asbytes=True)
        except (ValueError, NotImplementedError, pa.ArrowException) as error:
            raise DamagedPageError(f"a damaged page, compressed by {chunk.compression}") from error
    counts = _int(1, page.num_rows) + _int(1, _PLAIN) + _int(1, _RLE) + _int(1, _RLE) + b"\0"
    blank = _header(_DATA_PAGE, len(body), len(packed)) + bytes([2 << 4 | _STRUCT]) + counts + b"\0" + packed
    rest = page.stop - page.start - len(blank)
    filler_bytes = rest - len(_header(_INDEX_PAGE, 0, 0)) - 1
    if filler_bytes < 0:
        raise DamagedPageError("a damaged page, too short to read around it")
    return blank + _header(_INDEX_PAGE, filler_bytes, filler_bytes) + b"\0"


def _header(kind: int, unpacked: int, packed: int) -> bytes:
    return _int(1, kind) + _int(1, unpacked) + _int(1, packed)


def _int(steps: int, value: int) -> bytes:
    """Return an I32 field that comes so many numbers after the one before it."""
    return bytes([steps << 4 | _I32]) + _varint(value << 1, 5)


def _varint(value: int, num_bytes: int = 0) -> bytes:
    """Return a number in groups of seven bits, with empty groups up to a length."""
    found = bytearray()
    while value > 127 or len(found) + 1 < num_bytes:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
