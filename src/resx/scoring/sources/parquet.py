"""Images that lie in Parquet files as a column of bytes; beside it a column of paths, if there is one.

The column may also be a structure with a field `bytes`, as Hugging Face's datasets write images.
`parquet_rows.py` reads the rows.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from resx.errors import UsageError
from resx.files.fingerprint import FileFacts, Fingerprint, fingerprint_of
from resx.scoring.sources.named_images import named_facts
from resx.scoring.sources.parquet_columns import PATH, ImageColumn, field_of, image_column, is_text, scalar_of
from resx.scoring.sources.parquet_damage import is_damage
from resx.scoring.sources.parquet_files import (
    largest_page,
    most_page_bytes,
    names_files,
    open_table,
    require_unchanged,
    table_facts,
    tell_failure,
)
from resx.scoring.sources.parquet_rows import ROWS_AT_ONCE, RowReader
from resx.scoring.sources.source import Row
from resx.scoring.sources.uri import without_secrets
from resx.text import printable

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Rows of Parquet files, one file after the other."""

    files: tuple[str, ...]
    counts: tuple[int, ...]
    """Rows of each file."""
    facts: tuple[FileFacts, ...]
    """Of each file when it was listed."""
    start: int
    stop: int
    """The rows of all files together that are meant."""
    column: str
    path_column: str
    """Empty: a row is called FILE#NUMBER."""
    sha256: str
    images_from: str = ""
    """The folder that paths in a table may lead into; empty: the table's own."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0
    fingerprint: Fingerprint | None = None
    unwatched: int = 0

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
            files=self.files,
            counts=self.counts,
            facts=self.facts,
            start=self.start + start,
            stop=self.start + stop,
            column=self.column,
            path_column=self.path_column,
            sha256=self.sha256,
            images_from=self.images_from,
        )

    def for_other_machines(self) -> Tables:
        """Return the same rows without the times of files."""
        return replace(self, facts=tuple(replace(one, time="") for one in self.facts), fingerprint=None)

    def rows(self) -> Iterator[Row]:
        """Give the images in their order."""
        for number, (count, before) in enumerate(zip(self.counts, _sums(self.counts), strict=True)):
            first, last = max(0, self.start - before), min(count, self.stop - before)
            if first < last:
                yield from self._rows_of(number, first, last)

    def _rows_of(self, number: int, first: int, last: int) -> Iterator[Row]:
        file = self.files[number]
        with open_table(file) as (table, content), tell_failure(file):
            require_unchanged(file, content, self.facts[number])
            reader = RowReader(
                file=file,
                facts=self.facts[number],
                table=table,
                content=content,
                column=image_column(table.schema_arrow, file, self.column),
                path_column=self.path_column,
                images_from=self.images_from,
            )
            before = 0
            for group in range(table.num_row_groups):
                num_rows = table.metadata.row_group(group).num_rows
                wanted = range(max(first, before) - before, min(last, before + num_rows) - before)
                if wanted:
                    yield from reader.rows_of_group(group, before, wanted)
                before += num_rows


def open_tables(
    files: Sequence[str], column: str, *, images_from: str, skipped: Mapping[str, int], hidden: int
) -> Tables:
    """Return the rows of Parquet files that all have the same column of bytes.

    Args:
        files: their names.
        column: of bytes; empty: the only one.
        images_from: the folder that paths in a table may lead into; empty: the table's own.
        skipped: files beside them that are not taken.
        hidden: likewise.

    Raises:
        UsageError: a file is no Parquet, or has no such column.
    """
    digest, counts, chosen = hashlib.sha256(), [], column
    facts, named = list[FileFacts](), list[tuple[str, FileFacts]]()
    paths = True
    for file in files:
        with open_table(file) as (table, content):
            _require_images(table, content, file)
            found = image_column(table.schema_arrow, file, chosen)
            chosen = found.name
            paths = paths and PATH in table.schema_arrow.names and is_text(table.schema_arrow.field(PATH).type)
            counts.append(table.metadata.num_rows)
            facts.append(table_facts(file, content))
            named += _named_files(file, table, content, found, images_from)
            sizes = [table.metadata.row_group(number).total_byte_size for number in range(table.num_row_groups)]
            digest.update(f"{printable(file)}\0{table.metadata.num_rows}\0{sizes}\0{chosen}\n".encode())
    return Tables(
        files=tuple(files),
        counts=tuple(counts),
        facts=tuple(facts),
        start=0,
        stop=sum(counts),
        column=chosen,
        path_column=PATH if paths else "",
        sha256=digest.hexdigest(),
        images_from=images_from,
        skipped=skipped,
        hidden=hidden,
        fingerprint=fingerprint_of([*zip(files, facts, strict=True), *named]),
    )


def _named_files(
    file: str, table: ParquetFile, content: BinaryIO, column: ImageColumn, images_from: str
) -> Iterator[tuple[str, FileFacts]]:
    """Give the facts of the files that a table names in place of bytes; those that are not read have none."""
    limit = most_page_bytes()
    for group in range(table.num_row_groups):
        if not names_files(table, group, column):
            continue
        largest, damage = largest_page(content, table, group, [column.path_leaf])
        if largest > limit or damage is not None:
            continue
        try:
            for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column.path_leaf]):
                cells = field_of(batch.column(column.parts[0]), (*column.parts[1:-1], PATH))
                names = [name for place in range(batch.num_rows) if (name := scalar_of(cells, place).as_py())]
                yield from zip(names, named_facts(names, file, images_from), strict=True)
        except Exception as error:
            if not is_damage(error):  # a damaged page's rows are errors, told when they are read
                raise


def _require_images(table: ParquetFile, content: BinaryIO, file: str) -> None:
    """Check that there can be as many images as there are rows: a row of nothing takes no space."""
    size = content.seek(0, os.SEEK_END)
    if not 0 <= table.metadata.num_rows <= size:
        raise UsageError(
            f"{without_secrets(file)}: {table.metadata.num_rows:,} rows in {size:,} bytes; each row must hold an image"
        )


def _sums(counts: Sequence[int]) -> list[int]:
    """Return how many come before each."""
    return [0, *itertools.accumulate(counts)][: len(counts)]
