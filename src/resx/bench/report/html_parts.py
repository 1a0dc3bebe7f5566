"""What the sections of a report are made of: numbers as text, tables, figures, and names for loads."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal, TypeAlias

from resx.bench.results.result import Measurement

MISSING = "n/a"
Flag: TypeAlias = Literal["INVALID", "UNSTABLE"]


def decimal(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed decimals, so that columns align; n/a for None and what is not finite."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def brief(value: float) -> str:
    """Return a number with three digits for running text."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent."""
    return f"{100 * share:.{digits}f} %"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural but for one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shorten(name: str, most: int) -> str:
    """Return a name of at most so many characters for a chart; the table beside it holds all of it."""
    return name if len(name) <= most else name[: most - 1] + "…"


def labels(measurements: Sequence[Measurement]) -> list[str]:
    """Return a name for each load that says no more than what tells it from the others."""

    def parts(measured: Measurement) -> dict[str, str]:
        return {
            "target": measured.target,
            "url": measured.url,
            "load": measured.title,
            "batch": f"batch {measured.batch_size}",
            "run": f"run {measured.repeat}",
        }

    found = [parts(measured) for measured in measurements]
    varying = [key for key in ("target", "url", "load", "batch", "run") if len({part[key] for part in found}) > 1]
    shown = [key for key in ("target", "url", "load", "batch", "run") if key == "load" or key in varying]
    return [", ".join(part[key] for key in shown) for part in found]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under headings; the first cell of a row names it."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = field(default=frozenset())
    """Columns that hold words; all others but the first hold numbers."""
    flags: Mapping[int, Flag] = field(default_factory=dict)
    """What stands beside a row's name: that its figures must not be used, or varied."""

    def html(self) -> str:
        """Return the table in a container of its own that scrolls; cells are escaped."""
        head = "".join(f'<th scope="col"{self._class(at)}>{escape(name)}</th>' for at, name in enumerate(self.headings))
        body = "".join(self._row(number, row) for number, row in enumerate(self.rows))
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(self.caption)}"><table>'
            f"<caption><span>{escape(self.caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
            f'</table></div><details class="csv"><summary>As CSV, to copy</summary><pre tabindex="0" '
            f'aria-label="{escape(self.caption)}, as CSV">{escape(self.csv())}</pre></details>'
        )

    def csv(self) -> str:
        """Return the table for a spreadsheet: numbers without separators, nothing where there is none."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.headings)
        writer.writerows([self._plain(at, cell) for at, cell in enumerate(row)] for row in self.rows)
        return file.getvalue()

    def _plain(self, column: int, cell: str) -> str:
        if cell in {MISSING, "–"}:
            return ""
        return cell.replace(",", "") if column and column not in self.words else cell

    def _row(self, number: int, row: Sequence[str]) -> str:
        name = escape(row[0])
        if flag := self.flags.get(number):
            name += f' <strong class="flag{" warn" if flag == "UNSTABLE" else ""}">{flag}</strong>'
        cells = "".join(f"<td{self._class(at)}>{_cell(cell)}</td>" for at, cell in enumerate(row[1:], 1))
        return f'<tr><th scope="row">{name}</th>{cells}</tr>'

    def _class(self, column: int) -> str:
        return "" if column and column not in self.words else ' class="words"'


def _cell(content: str) -> str:
    return f'<span class="missing">{content}</span>' if content == MISSING else escape(content)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFigure:
    """A chart or several of one kind, with what it says in words and in numbers."""

    name: str
    """Its id in the page."""
    title: str
    pictures: Sequence[tuple[str, str]]
    """A heading (empty for a single picture) and an SVG each."""
    words: str
    """The caption: what is drawn, then what is seen, with numbers."""
    legend: Sequence[tuple[str, str]] = ()
    """A sample and what it stands for."""
    table: Table | None = None
    style: str = ""
    """How several pictures stand: `many` across the page, `pairs` two by two in a column."""

    def html(self) -> str:
        """Return the figure. `pictures` and the legend's samples are markup, everything else is escaped."""
        legend = "".join(f"<li>{sample}<span>{escape(name)}</span></li>" for sample, name in self.legend)
        pictures = "".join(
            f'<div class="panel">{f"<h4>{escape(heading)}</h4>" if heading else ""}{svg}</div>'
            for heading, svg in self.pictures
        )
        numbers = f"<details><summary>The numbers</summary>{self.table.html()}</details>" if self.table else ""
        style = f' class="{self.style}"' if self.style else ""
        return (
            f'<figure id="{self.name}"{style}><h3>{escape(self.title)}</h3>'
            + (f'<ul class="legend">{legend}</ul>' if legend else "")
            + f'<div class="pictures">{pictures}</div><figcaption>{escape(self.words)}</figcaption>{numbers}</figure>'
        )
