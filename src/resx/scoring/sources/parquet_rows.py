"""The rows of one Parquet file, read a batch at a time, so that neither a file nor a row group has to fit into memory.

The largest page decides how many rows are read at once: a page may be a dictionary, of which each row is a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from resx.data.image_decoding import SMALLER_FILE
from resx.errors import UsageError, first_line
from resx.files.fingerprint import FileFacts
from resx.files.reading import MIB, read_limits
from resx.scoring.sources.named_images import read_named
from resx.scoring.sources.parquet_columns import PATH, ImageColumn, field_of, scalar_of
from resx.scoring.sources.parquet_damage import Damage, damage_at, find_damage, is_damage, open_mended
from resx.scoring.sources.parquet_files import (
    largest_page,
    most_page_bytes,
    names_files,
    require_unchanged,
)
from resx.scoring.sources.source import Row
from resx.text import printable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

ROWS_AT_ONCE, _BYTES_AT_ONCE = 64, 128 * MIB
_SMALLER_PAGES = "write it with smaller row groups, or raise --max-file-mib"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReader:
    """Reads the rows of a file that is open."""

    file: str
    facts: FileFacts
    table: ParquetFile
    content: BinaryIO
    column: ImageColumn
    path_column: str
    """Empty: a row is called FILE#NUMBER."""
    images_from: str
    """The folder that paths in a table may lead into; empty: the table's own."""

    def rows_of_group(self, group: int, before: int, wanted: range) -> Iterator[Row]:
        """Give rows of one row group, whose first row has the number `before` in the file.

        What would unpack to too much is not unpacked, and what is damaged cannot be: these rows are errors.
        """
        leaves = self._leaves(group)
        page_bytes, damage = largest_page(self.content, self.table, group, leaves)
        limit = most_page_bytes()
        if page_bytes > limit:
            reason = f"a page of {page_bytes:,} bytes, unpacked: the limit is {limit:,}; {_SMALLER_PAGES}"
            yield from (self._lost(before + row, reason) for row in wanted)
            return
        at_once = max(1, min(ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, page_bytes)))
        if damage is not None:  # what a damaged header says is not for pyarrow to follow
            yield from self._around_damage(damage, group, leaves, at_once, before, wanted)
            return
        row = wanted.start
        try:
            for one in self._read(self.table, group, leaves, at_once, before, wanted):
                yield one
                row += 1
        except Exception as error:
            if not is_damage(error):
                raise
            yield from self._around_damage(error, group, leaves, at_once, before, range(row, wanted.stop))

    def _around_damage(
        self, error: Exception, group: int, leaves: Sequence[str], at_once: int, before: int, wanted: range
    ) -> Iterator[Row]:
        row = wanted.start
        try:
            mended, damages = find_damage(self.table, self.content, group, leaves, most_page_bytes())
            with open_mended(mended, self.table) as table:
                for one in self._read(table, group, leaves, at_once, before, wanted):
                    damage = damage_at(row, damages)
                    yield one if damage is None else self._lost(before + row, _damage_words(damage, before))
                    row += 1
        except Exception as again:
            if not is_damage(again):
                raise
            rest = Damage(rows=range(row, wanted.stop), reason=first_line(error))
            for lost in rest.rows:
                yield self._lost(before + lost, _damage_words(rest, before))

    def _read(
        self, table: ParquetFile, group: int, leaves: Sequence[str], at_once: int, before: int, wanted: range
    ) -> Iterator[Row]:
        row = 0
        for batch in table.iter_batches(at_once, row_groups=[group], columns=list(leaves)):
            require_unchanged(self.file, self.content, self.facts)
            images = field_of(batch.column(self.column.parts[0]), self.column.parts[1:])
            paths = batch.column(PATH) if self.path_column else None
            beside = self.column.parts[1:-1] if self.column.has_path and self.column.path_leaf in leaves else None
            elsewhere = None if beside is None else field_of(batch.column(self.column.parts[0]), (*beside, PATH))
            for place in range(batch.num_rows):
                if row in wanted:
                    name = None if paths is None else scalar_of(paths, place).as_py()
                    path = None if elsewhere is None else scalar_of(elsewhere, place).as_py()
                    yield self._row(before + row, name, scalar_of(images, place), path)
                row += 1

    def _row(self, number: int, name: object, image: pa.Scalar, path: object) -> Row:
        """Return a row with a copy of its bytes: a slice would keep its whole batch in memory until it is read."""
        shown = printable(name) if isinstance(name, str) else f"{printable(self.file)}#{number}"
        if not image.is_valid and isinstance(path, str):
            shown = shown if isinstance(name, str) else printable(path)
            return Row(path=shown, read=partial(read_named, path, self.file, self.images_from, shown))
        buffer, limit = image.as_buffer() if image.is_valid else None, read_limits().file_bytes
        if buffer is not None and buffer.size > limit:
            reason = f"file of {buffer.size:,} bytes: the limit is {limit:,}; {SMALLER_FILE}"
            return Row(path=shown, read=partial(_refuse, reason))
        content = None if buffer is None else buffer.to_pybytes()
        return Row(path=shown, read=partial(_content, content), held_bytes=len(content or b""))

    def _lost(self, number: int, reason: str) -> Row:
        return Row(path=f"{printable(self.file)}#{number}", read=partial(_refuse, reason))

    def _leaves(self, group: int) -> list[str]:
        paths = [PATH] if self.path_column else []
        named = [self.column.path_leaf] if names_files(self.table, group, self.column) else []
        return [self.column.leaf, *paths, *named]


def _damage_words(damage: Damage, before: int) -> str:
    first, last = before + damage.rows.start, before + damage.rows.stop - 1
    return f"rows {first:,} to {last:,} are in a damaged page ({damage.reason}); copy the file again, or write it again"


def _content(content: bytes | None) -> bytes:
    if content is None:
        raise FileNotFoundError(2, "this row has no image bytes")
    return content


def _refuse(reason: str) -> bytes:
    raise UsageError(reason)
