"""Charts as SVG text: scales, axes, lines and marks. Colours and fonts are the page's style sheet's.

Series differ by colour, dash and shape of mark, so that no reader needs to see colours. All numbers are written with
one decimal: the same data give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

NUM_STYLES = 6
"""Colours and shapes of marks. The seventh series has the first's, with other dashes and hollow marks."""
# Corners of the marks, relative to their size; the first is a circle.
_OUTLINES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, -1.25), (1.15, 0.8), (-1.15, 0.8)),
    ((0, 1.25), (1.15, -0.8), (-1.15, -0.8)),
    (
        (-1.4, -0.5),
        (-0.5, -0.5),
        (-0.5, -1.4),
        (0.5, -1.4),
        (0.5, -0.5),
        (1.4, -0.5),
        (1.4, 0.5),
        (0.5, 0.5),
        (0.5, 1.4),
        (-0.5, 1.4),
        (-0.5, 0.5),
        (-1.4, 0.5),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Maps a value between `low` and `high` to a place between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place; a value outside is put on the nearest end."""
        low, high, at = (math.log10(v) if self.is_log else v for v in (self.low, self.high, max(value, self._least)))
        share = (at - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    @property
    def _least(self) -> float:
        return self.low if self.is_log else -math.inf

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round values, about five of them."""
        if not self.is_log:
            step = nice_step(self.high - self.low)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return tuple(number * step for number in range(first, last + 1))
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [digit * 10.0**decade for decade in decades for digit in digits]
            inside = tuple(tick for tick in found if self.low * 0.999 <= tick <= self.high * 1.001)
            if len(inside) <= 7:
                break
        return inside


def nice_step(span: float, about: int = 5) -> float:
    """Return 1, 2 or 5 times a power of ten, of which about so many fit into the span."""
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def log_range(values: Iterable[float]) -> tuple[float, float]:
    """Return 1, 2 or 5 times powers of ten that enclose the values, which are above 0."""
    given = [max(value, 1e-6) for value in values]
    steps = [digit * 10.0**decade for decade in range(-6, 9) for digit in (1, 2, 5)]
    low = max((step for step in steps if step <= min(given) * 1.0001), default=steps[0])
    high = min((step for step in steps if step >= max(given) * 0.9999), default=steps[-1])
    return (low, high) if high > low else (low, 2 * low)


def zero_range(values: Iterable[float]) -> tuple[float, float]:
    """Return 0 and a round number above the values."""
    largest = max([*values, 0.0]) or 1.0
    step = nice_step(largest)
    return 0.0, step * math.ceil(largest * 1.02 / step)


def number(value: float) -> str:
    """Return a tick's label."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 9):g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A picture with two axes. Sizes are user units: a picture fills the width that the page gives it."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool = False
    y_log: bool = False
    left: int = 46
    right: int = 14
    top: int = 28
    bottom: int = 40

    @property
    def x(self) -> Scale:
        """From left to right."""
        low, high = self.x_range
        return Scale(low=low, high=high, start=self.left, end=self.width - self.right, is_log=self.x_log)

    @property
    def y(self) -> Scale:
        """From the bottom upwards."""
        low, high = self.y_range
        return Scale(low=low, high=high, start=self.height - self.bottom, end=self.top, is_log=self.y_log)

    def axes(self, x_title: str, y_title: str, *, x_ticks: Sequence[tuple[float, str]] = (), y_unit: str = "") -> str:
        """Return grid lines, labels and titles; `x_ticks` are of the scale unless values with labels are given."""
        foot, edge = self.height - self.bottom, self.width - self.right
        parts = [
            f'<line class="grid" x1="{self.left}" x2="{edge}" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}"/>'
            + text(self.left - 7, self.y(tick) + 4, number(tick) + y_unit, anchor="end")
            for tick in self.y.ticks
        ]
        parts.append(f'<line class="axis" x1="{self.left}" x2="{edge}" y1="{foot}" y2="{foot}"/>')
        for tick, label in x_ticks or [(tick, number(tick)) for tick in self.x.ticks]:
            at = self.x(tick)
            parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{foot}" y2="{foot + 4}"/>')
            parts.append(text(at, foot + 17, label, anchor="middle"))
        parts.append(text(0, 12, y_title, style="title"))
        parts.append(text(edge, self.height - 5, x_title, anchor="end", style="title"))
        return "".join(parts)

    def svg(self, label: str, body: str) -> str:
        """Return the picture; `label` says in words what it shows."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="group" aria-label="{escape(label)}" '
            f'preserveAspectRatio="xMidYMid meet">{body}</svg>'
        )


def text(x: float, y: float, content: str, *, anchor: str = "start", style: str = "tick") -> str:
    """Return a label; the content is escaped."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def is_again(style: int) -> bool:
    """Say whether a series is told from another of its colour by dashes and hollow marks."""
    return style // NUM_STYLES % 2 == 1


def line(points: Sequence[tuple[float, float] | None], style: int, *, extra: str = "") -> str:
    """Return a line through the places; None interrupts it. `extra` are further classes."""
    commands, pen_up = [], True
    for point in points:
        if point is not None:
            commands.append(f"{'M' if pen_up else 'L'}{point[0]:.1f} {point[1]:.1f}")
        pen_up = point is None
    classes = f"line s{style % NUM_STYLES} {extra or ('again' if is_again(style) else '')}".strip()
    return f'<path class="{classes}" d="{"".join(commands)}"/>' if commands else ""


def mark(x: float, y: float, style: int, title: str, *, hollow: bool = False, size: float = 3.6) -> str:
    """Return a mark in the series' shape; `title` is what it shows under a pointer or the keyboard's focus."""
    shape = style % NUM_STYLES
    classes = f"mark s{shape}{' hollow' if hollow else ''}"
    if shape == 0:
        return _datum(f'<circle class="{classes}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>', title)
    places = "L".join(f"{x + dx * size:.1f} {y + dy * size:.1f}" for dx, dy in _OUTLINES[shape])
    return _datum(f'<path class="{classes}" d="M{places}Z"/>', title)


def _datum(shape: str, title: str) -> str:
    """Let a shape be reached by keyboard and show its figures in the picture's top right corner.

    Style sheet alone: the page has no scripts. A shape without figures is a legend's.
    """
    if not title:
        return shape
    words = escape(title)
    tip = f'<text class="tip" x="100%" y="25" text-anchor="end" aria-hidden="true">{words}</text>'
    return f'<g class="datum" tabindex="0" role="img" aria-label="{words}">{shape}{tip}</g>'


def cross(x: float, y: float, title: str) -> str:
    """Return the mark of a failure."""
    arm = 4
    strokes = f"M{x - arm:.1f} {y - arm:.1f}l{2 * arm} {2 * arm}m0 {-2 * arm}l{-2 * arm} {2 * arm}"
    return _datum(f'<path class="mark failure" d="{strokes}"/>', title)


def bar(x: float, y: float, width: float, height: float, style: str, title: str) -> str:
    """Return a filled rectangle; one without extent keeps a hair's breadth, so that it can be found."""
    size = f'width="{max(width, 0.3):.1f}" height="{max(height, 0.3):.1f}"'
    return _datum(f'<rect class="mark {style}" x="{x:.1f}" y="{y:.1f}" {size}/>', title)


def swatch(style: int, *, hollow: bool = False, dashed: bool = False) -> str:
    """Return a legend's sample of a series."""
    extra = "dashed" if dashed else ""
    sample = line([(1, 7), (29, 7)], style, extra=extra) + mark(15, 7, style, "", hollow=hollow)
    return f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true">{_unmarked(sample)}</svg>'


def fill_swatch(style: str) -> str:
    """Return a legend's sample of an area."""
    return (
        f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true">'
        f'<rect class="{style}" x="4" y="1" width="22" height="12"/></svg>'
    )


def _unmarked(sample: str) -> str:
    """A sample stands for no datum, so it is no mark."""
    return sample.replace('class="mark ', 'class="sample ')
