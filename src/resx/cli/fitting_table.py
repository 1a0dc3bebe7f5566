"""A table that fits what it is printed on: the least important columns go until it does, and no number is folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from resx.text import one_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

Cell: TypeAlias = "str | Text"
"""A string is plain text; a Text may have a color."""

_LEAST_KEY, _LEAST_WORDS = 28, 16
"""Characters below which the first column, and other columns of words, are not squeezed: rather a column goes."""
_CHARACTERS_PER_COLUMN = 10
"""A row of more columns than that cannot be read at a glance, even where it fits."""
_GAP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class FittingTable:
    """Rows under columns; the first column always stays."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_words: int
    """So many columns, the first ones, are words, which may go on in the next line; the others are numbers."""
    least: tuple[str, ...]
    """Columns in the order in which they go; the others follow from the right."""
    is_matrix: bool = False
    """All columns are alike: as many are shown as fit."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Give the columns that fit, and name those that do not."""
        from rich.text import Text

        shown = self.fitting(options.max_width)
        if self.title:
            yield Text(one_line(self.title))
        yield self._draw(shown)
        yield ""
        if len(shown) < len(self.columns):
            hidden = ", ".join(name for index, name in enumerate(self.columns) if index not in shown)
            yield Text(f"Hidden at this width: {one_line(hidden)}. --wide shows all columns.", style="dim")

    def fitting(self, width: int) -> list[int]:
        """Return the places of the columns to show in that many characters."""
        shown = list(range(len(self.columns)))
        most = len(shown) if self.is_matrix else max(2, width // _CHARACTERS_PER_COLUMN)
        for place in self._order():
            if self._least_width(shown) <= width and len(shown) <= most:
                break
            shown.remove(place)
        return shown

    def _order(self) -> list[int]:
        """Return the places of all columns but the first, the least important first."""
        named = [self.columns.index(name) for name in self.least if name in self.columns]
        return [*named, *(place for place in reversed(range(1, len(self.columns))) if place not in named)]

    def _least_width(self, shown: Sequence[int]) -> int:
        return sum(map(self._least_column, shown)) + _GAP * (len(shown) - 1)

    def _least_column(self, place: int) -> int:
        longest = self._longest_cell(place)
        if place >= self.num_words:
            return longest
        return min(longest, _LEAST_WORDS if place else _LEAST_KEY)

    def _longest_cell(self, place: int) -> int:
        from rich.cells import cell_len

        texts = [self.columns[place], *(row[place] for row in self.rows)]
        return max(cell_len(one_line(text) if isinstance(text, str) else text.plain) for text in texts)

    def _draw(self, shown: Sequence[int]) -> Table:
        from rich import box
        from rich.table import Table

        drawn = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
        )
        for place in shown:
            drawn.add_column(
                self.columns[place],
                justify="left" if place < self.num_words else "right",
                no_wrap=self._longest_cell(place) == self._least_column(place),
                overflow="fold",
            )
        for row in self.rows:
            drawn.add_row(*(row[place] for place in shown))
        return drawn
