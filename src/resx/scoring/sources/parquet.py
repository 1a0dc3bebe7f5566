"""Images that lie in Parquet files as a column of bytes; beside it a column of paths, if there is one.

The column may also be a structure with a field `bytes`, as Hugging Face's datasets write images. Rows are read in
batches, so that neither a file nor a row group has to fit into memory whole. A page has to, so its size is looked at
first (`resx.scoring.sources.parquet_pages`), and decides how many rows are read at once: a page may be a dictionary, of
which each row is a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from resx.data.image_decoding import SMALLER_FILE
from resx.errors import ResxError, UsageError, first_line
from resx.files.fingerprint import FileFacts, Fingerprint, facts_in, facts_of, fingerprint_of
from resx.files.reading import MIB, read_limits, require_regular
from resx.scoring.sources.named_images import named_facts, read_named
from resx.scoring.sources.parquet_columns import PATH, ImageColumn, field_of, image_column, is_text, scalar_of
from resx.scoring.sources.parquet_damage import Damage, damage_at, find_damage, is_damage, open_mended
from resx.scoring.sources.parquet_pages import DamagedPageError, pages_of
from resx.scoring.sources.source import CHANGED, Row
from resx.scoring.sources.uri import filesystem, is_remote, local_path, remote_facts, without_secrets
from resx.text import printable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

_ROWS_AT_ONCE, _BYTES_AT_ONCE = 64, 128 * MIB
_PAGE_PER_FILE = 16
"""Bytes of a page for each that an image's file may have: a writer may put a thousand images into one page."""
_SMALLER_PAGES = "write it with smaller row groups, or raise --max-file-mib"


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
        with open_table(file) as (table, content), _failure_told(file):
            _require_unchanged(file, content, self.facts[number])
            reader = _Reader(
                tables=self,
                file=file,
                facts=self.facts[number],
                table=table,
                content=content,
                column=image_column(table.schema_arrow, file, self.column),
            )
            before = 0
            for group in range(table.num_row_groups):
                num_rows = table.metadata.row_group(group).num_rows
                wanted = range(max(first, before) - before, min(last, before + num_rows) - before)
                if wanted:
                    yield from reader.rows_of_group(group, before, wanted)
                before += num_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """A file that is open."""

    tables: Tables
    file: str
    facts: FileFacts
    table: ParquetFile
    content: BinaryIO
    column: ImageColumn

    def rows_of_group(self, group: int, before: int, wanted: range) -> Iterator[Row]:
        """Give rows of one row group, whose first row has the number `before` in the file.

        What would unpack to too much is not unpacked, and what is damaged cannot be: these rows are errors.
        """
        leaves = self._leaves(group)
        page_bytes, damage = _largest_page(self.content, self.table, group, leaves)
        limit = _PAGE_PER_FILE * read_limits().file_bytes
        if page_bytes > limit:
            reason = f"a page of {page_bytes:,} bytes, unpacked: the limit is {limit:,}; {_SMALLER_PAGES}"
            yield from (self._lost(before + row, reason) for row in wanted)
            return
        at_once = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, page_bytes)))
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
            mended, damages = find_damage(
                self.table, self.content, group, leaves, _PAGE_PER_FILE * read_limits().file_bytes
            )
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
            _require_unchanged(self.file, self.content, self.facts)
            images = field_of(batch.column(self.column.parts[0]), self.column.parts[1:])
            paths = batch.column(PATH) if self.tables.path_column else None
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
            return Row(path=shown, read=partial(read_named, path, self.file, self.tables.images_from, shown))
        buffer, limit = image.as_buffer() if image.is_valid else None, read_limits().file_bytes
        if buffer is not None and buffer.size > limit:
            reason = f"file of {buffer.size:,} bytes: the limit is {limit:,}; {SMALLER_FILE}"
            return Row(path=shown, read=partial(_refuse, reason))
        content = None if buffer is None else buffer.to_pybytes()
        return Row(path=shown, read=partial(_content, content), held_bytes=len(content or b""))

    def _lost(self, number: int, reason: str) -> Row:
        return Row(path=f"{printable(self.file)}#{number}", read=partial(_refuse, reason))

    def _leaves(self, group: int) -> list[str]:
        paths = [PATH] if self.tables.path_column else []
        named = [self.column.path_leaf] if _names_files(self.table, group, self.column) else []
        return [self.column.leaf, *paths, *named]


def _names_files(table: ParquetFile, group: int, column: ImageColumn) -> bool:
    """Say whether bytes may be null in a row group, so that the paths beside them are wanted."""
    if not column.has_path:
        return False
    about = table.metadata.row_group(group)
    chunk = next(
        chunk for place in range(about.num_columns) if (chunk := about.column(place)).path_in_schema == column.leaf
    )
    known = chunk.statistics
    return known is None or not known.has_null_count or known.null_count > 0


def _damage_words(damage: Damage, before: int) -> str:
    first, last = before + damage.rows.start, before + damage.rows.stop - 1
    return f"rows {first:,} to {last:,} are in a damaged page ({damage.reason}); copy the file again, or write it again"


def _largest_page(
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
    limit = _PAGE_PER_FILE * read_limits().file_bytes
    for group in range(table.num_row_groups):
        if not _names_files(table, group, column):
            continue
        largest, damage = _largest_page(content, table, group, [column.path_leaf])
        if largest > limit or damage is not None:
            continue
        try:
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column.path_leaf]):
                cells = field_of(batch.column(column.parts[0]), (*column.parts[1:-1], PATH))
                names = [name for place in range(batch.num_rows) if (name := scalar_of(cells, place).as_py())]
                yield from zip(names, named_facts(names, file, images_from), strict=True)
        except Exception as error:
            if not is_damage(error):  # a damaged page's rows are errors, told when they are read
                raise


def table_facts(file: str, content: BinaryIO) -> FileFacts:
    """Return the facts of a Parquet file that is open, with its footer's hash."""
    size = content.seek(0, os.SEEK_END)
    content.seek(max(0, size - 8))
    length = int.from_bytes(content.read(8)[:4], "little")
    content.seek(max(0, size - 8 - length))
    footer = hashlib.sha256(content.read(min(size, length + 8))).hexdigest()
    facts = remote_facts(file) if is_remote(file) else facts_in(os.fstat(content.fileno()))
    return FileFacts(size=size, time=facts.time, mark=f"{facts.mark} footer {footer}".strip())


def _require_unchanged(file: str, content: BinaryIO, facts: FileFacts) -> None:
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
def _failure_told(file: str) -> Iterator[None]:
    """Say in one line that a file cannot be read on: the disk or the network fails, not the file."""
    try:
        yield
    except OSError as error:
        reason = without_secrets(error.strerror or first_line(error))
        raise ResxError(
            f"{without_secrets(file)}: cannot be read ({reason}); finished parts are kept: continue with --resume"
        ) from error


def _content(content: bytes | None) -> bytes:
    if content is None:
        raise FileNotFoundError(2, "this row has no image bytes")
    return content


def _refuse(reason: str) -> bytes:
    raise UsageError(reason)


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
