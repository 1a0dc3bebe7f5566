"""How large the pages of a Parquet column are, before Arrow unpacks one.

Arrow makes room for a page as its header says, and a header says what it likes: 17 kB unpack to a cell of 512 MB. The
sums in the file's footer are only what a writer said, and pyarrow does not show the headers, so they are read here: a
struct in Thrift's compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md),
of which a few fields matter (https://github.com/apache/parquet-format, PageHeader).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData

_UNPACKED, _PACKED, _V1, _V2 = 2, 3, 5, 8
"""The fields of PageHeader: uncompressed_page_size, compressed_page_size, data_page_header, data_page_header_v2."""
_NUM_VALUES = 1
"""The field of both headers of data pages: with no lists in a column, its rows."""
_TRUE, _FALSE, _BYTE, _I16, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12
_FIRST_READ, _MAX_HEADER_BYTES, _MAX_DEPTH = 4096, 16 * 2**20, 16
"""Arrow's own bound on a header is 16 MiB; a header holds the smallest and the largest value."""


class Seekable(Protocol):
    """A file that is open for reading."""

    def seek(self, offset: int, /) -> int: ...  # noqa: D102
    def read(self, size: int, /) -> bytes: ...  # noqa: D102


class DamagedPageError(ValueError):
    """A page's header that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of a column chunk."""

    start: int
    stop: int
    """The bytes of header and page in the file."""
    unpacked_bytes: int
    num_rows: int
    """0 for a dictionary."""


def bounds_of(chunk: ColumnChunkMetaData) -> tuple[int, int]:
    """Return where a column chunk begins and ends."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size


def pages_of(file: Seekable, chunk: ColumnChunkMetaData) -> Iterator[Page]:
    """Give a column chunk's pages, in their order.

    Raises:
        DamagedPageError: a header cannot be read, or its page is longer than what is left.
        OSError: the file cannot be read.
    """
    return pages_between(file, *bounds_of(chunk))


def pages_between(file: Seekable, place: int, end: int) -> Iterator[Page]:
    """Give the pages from a header's place to an end, as `pages_of` does."""
    while place < end:
        page = _page_at(file, place)
        if page.stop > end:
            raise DamagedPageError(f"no page header at byte {place}")
        yield page
        place = page.stop


def _page_at(file: Seekable, place: int) -> Page:
    wanted = _FIRST_READ
    while True:
        file.seek(place)
        content = file.read(wanted)
        try:
            header = _Cursor(content)
            found = header.integers()
        except IndexError:
            if len(content) < wanted or wanted >= _MAX_HEADER_BYTES:
                raise DamagedPageError(f"no page header at byte {place}") from None
            wanted *= 8
            continue
        unpacked, packed = found.get((_UNPACKED,), -1), found.get((_PACKED,), -1)
        if unpacked < 0 or packed < 0:
            raise DamagedPageError(f"no page header at byte {place}")
        num_rows = max(0, found.get((_V1, _NUM_VALUES), found.get((_V2, _NUM_VALUES), 0)))
        return Page(start=place, stop=place + header.place + packed, unpacked_bytes=unpacked, num_rows=num_rows)


@dataclass(slots=True)
class _Cursor:
    """A place in bytes of Thrift's compact protocol; beyond their end everything is an IndexError."""

    content: bytes
    place: int = 0

    def integers(self) -> dict[tuple[int, ...], int]:
        """Read a struct and return its integers, and those of the structs of data pages, by their fields' numbers."""
        found: dict[tuple[int, ...], int] = {}

        def on_field(number: int, kind: int, *above: int) -> None:
            if _I16 <= kind <= _I64:
                found[*above, number] = self._signed()
            elif kind == _STRUCT and number in (_V1, _V2) and not above:
                self._fields(lambda inner, its_kind: on_field(inner, its_kind, number))
            else:
                self._skip(kind, 0)

        self._fields(on_field)
        return found

    def _fields(self, on_field: Callable[[int, int], None]) -> None:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            on_field(number, head & 15)

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise DamagedPageError("page header nested too deep")
        if kind == _BYTE:
            self._byte()
        elif _I16 <= kind <= _I64:
            self._varint()
        elif kind == _DOUBLE:
            self._forward(8)
        elif kind == _BINARY:
            self._forward(self._varint())
        elif kind in (_LIST, _SET):
            head = self._byte()
            self._skip_all([head & 15], head >> 4 if head >> 4 != 15 else self._varint(), depth)
        elif kind == _MAP:
            if count := self._varint():
                kinds = self._byte()
                self._skip_all([kinds >> 4, kinds & 15], count, depth)
        elif kind == _STRUCT:
            self._fields(lambda _number, inner: self._skip(inner, depth + 1))
        elif kind not in (_TRUE, _FALSE):
            raise DamagedPageError(f"page header has a field of kind {kind}")

    def _skip_all(self, kinds: list[int], count: int, depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                # A truth value is its field's kind, but a byte of its own in a list.
                self._skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth + 1)

    def _byte(self) -> int:
        self.place += 1
        return self.content[self.place - 1]

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise DamagedPageError("page header has a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _forward(self, num_bytes: int) -> None:
        self.place += num_bytes
        if self.place > len(self.content):
            raise IndexError(self.place)
