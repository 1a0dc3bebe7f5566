"""Draw the block diagrams of docs/models.md: `python -m docsite.block_diagrams` writes docs/assets/blocks-*.svg.

A diagram is a row of panels. A panel is a table of boxes on a grid of columns and rows, and of arrows between them.
A text that begins with `~` gets a dashed box: it does not run. One that ends with `*` gets a green box: it takes the
the survival probability p when the model is folded. Each diagram is drawn twice, for light and for dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from docsite.pictures import ASSETS, DARK, LIGHT, Colors

Cell: TypeAlias = tuple[int, int]
"""Column and row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrow:
    """From one box to another."""

    start: Cell
    end: Cell
    way: Literal["across", "down", "around"] = "across"
    """Where the columns differ: its first direction. `around` passes the column's other boxes on their right."""
    label: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One block or layer."""

    title: str
    boxes: dict[Cell, str]
    arrows: tuple[Arrow, ...]


def _chain(*texts: str, column: int = 0, row: int = 0) -> tuple[dict[Cell, str], tuple[Arrow, ...]]:
    """Return boxes below each other, and the arrows between them."""
    cells = [(column, row + number) for number in range(len(texts))]
    return dict(zip(cells, texts, strict=True)), tuple(Arrow(start=start, end=end) for start, end in pairwise(cells))


def _block(title: str, *steps: str, skip: str = "", join: str = "+") -> Panel:
    """Return a chain of steps; with `skip`, an arrow of that label goes from the first one around to `join`."""
    boxes, arrows = _chain(*steps)
    if skip:
        arrows += (Arrow(start=(0, 0), end=(0, steps.index(join)), way="around", label=skip),)
    return Panel(title=title, boxes=boxes, arrows=arrows)


def _paths(title: str, path: tuple[str, ...], *joined: str) -> Panel:
    """Return C paths of the same steps between x and what joins them."""
    boxes, arrows = _chain(*joined, column=1, row=1 + len(path))
    boxes |= {(1, 0): "x", (1, 1 + len(path) // 2): "C paths"}
    for column in (0, 2):
        more_boxes, more_arrows = _chain(*path, column=column, row=1)
        boxes |= more_boxes
        arrows += (
            *more_arrows,
            Arrow(start=(1, 0), end=(column, 1)),
            Arrow(start=(column, len(path)), end=(1, 1 + len(path)), way="down"),
        )
    addition = max(cell for cell, text in boxes.items() if text == "+")
    return Panel(
        title=title,
        boxes=boxes,
        arrows=(*arrows, Arrow(start=(1, 0), end=addition, way="around", label="shortcut")),
    )


_HIGHWAY = Panel(
    title="highway layer",
    boxes={
        (1, 0): "x",
        (0, 1): "conv 3×3", (0, 2): "relu",
        (1, 1): "conv 3×3", (1, 2): "sigmoid",
        (0, 3): "×", (2, 3): "×",
        (1, 4): "+", (1, 5): "y",
    },
    arrows=(
        Arrow(start=(1, 0), end=(0, 1)),
        Arrow(start=(1, 0), end=(1, 1)),
        Arrow(start=(1, 0), end=(2, 3)),
        Arrow(start=(0, 1), end=(0, 2)),
        Arrow(start=(1, 1), end=(1, 2)),
        Arrow(start=(0, 2), end=(0, 3)),
        Arrow(start=(1, 2), end=(0, 3), way="down", label="T"),
        Arrow(start=(1, 2), end=(2, 3), way="down", label="1 − T"),
        Arrow(start=(0, 3), end=(1, 4), way="down"),
        Arrow(start=(2, 3), end=(1, 4), way="down"),
        Arrow(start=(1, 4), end=(1, 5)),
    ),
)  # fmt: skip

_DROPPED = Panel(
    title="training: dropped",
    boxes={(0, 0): "x", (0, 1): "~f", (0, 3): "+", (0, 4): "y"},
    arrows=(
        Arrow(start=(0, 0), end=(0, 3), way="around", label="x"),
        Arrow(start=(0, 3), end=(0, 4)),
    ),
)

PREACTIVATION = (
    _block("original", "x", "conv", "bn, relu", "conv", "bn*", "× p", "+", "relu", skip="x"),
    _block("bn_after_addition", "x", "conv", "bn, relu", "conv*", "× p", "+", "bn, relu", skip="x"),
    _block("relu_before_addition", "x", "conv", "bn, relu", "conv", "bn*", "relu", "× p", "+", skip="x"),
    _block("relu_only_preactivation", "x", "relu", "conv", "bn, relu", "conv", "bn*", "× p", "+", skip="x"),
    _block("full_preactivation", "x", "bn, relu", "conv", "bn, relu", "conv*", "× p", "+", skip="x"),
)
"""The five units, under the names that `variant` has for them."""

DIAGRAMS: dict[str, tuple[Panel, ...]] = {
    "resnet": (
        _block("plain", "x", "conv 3×3", "bn, relu", "conv 3×3", "bn", "relu"),
        _block("basic", "x", "conv 3×3", "bn, relu", "conv 3×3", "bn*", "× p", "+", "relu", skip="shortcut"),
        _block(
            "bottleneck",
            "x", "conv 1×1", "bn, relu", "conv 3×3", "bn, relu", "conv 1×1", "bn*", "× p", "+", "relu",
            skip="shortcut",
        ),
    ),
    "preresnet": PREACTIVATION,
    "resnext": (
        _paths("(a) aggregated", ("1×1, d", "3×3, d", "1×1"), "+", "bn*", "× p", "+", "relu"),
        _paths("(b) concatenated", ("1×1, d", "3×3, d"), "concat", "1×1", "bn*", "× p", "+", "relu"),
        _block(
            "(c) grouped", "x", "1×1, C·d", "3×3, C groups", "1×1", "bn*", "× p", "+", "relu", skip="shortcut"
        ),
    ),
    "densenet": (
        _block(
            "DenseNet-B layer",
            "x", "bn, relu", "conv 1×1, 4k", "bn, relu", "conv 3×3, k*", "× p", "concat",
            skip="x", join="concat",
        ),
        _block("without bottleneck", "x", "bn, relu", "conv 3×3, k*", "× p", "concat", skip="x", join="concat"),
        _block("transition", "x", "bn, relu", "conv 1×1, θC", "avg pool /2"),
    ),
    "highway": (_HIGHWAY, _block("gates open: ResNet", "x", "conv 3×3", "relu", "+", "y", skip="x")),
    "stochastic-depth": (
        _block("training: kept", "x", "f", "+", "y", skip="x"),
        _DROPPED,
        _block("evaluation", "x", "f", "× p", "+", "y", skip="x"),
        _block("folded", "x", "f(pW, pb)*", "+", "y", skip="x"),
    ),
}  # fmt: skip

_JOINS = ("+", "×")
_DATA = ("x", "y", "C paths")
_NOTE = "green: the layer that takes p when the model is folded"

_COLUMN, _ROW = 124, 42
_HALF_WIDTH, _HALF_HEIGHT, _RADIUS = 54, 13, 11
_TOP, _LANE, _BETWEEN = 58, 16, 26


def draw_diagram(panels: tuple[Panel, ...], colors: Colors) -> str:
    """Return the panels side by side as an SVG."""
    width = sum(map(_width, panels)) + _BETWEEN * (len(panels) + 1)
    is_folded = any(text.endswith("*") for panel in panels for text in panel.boxes.values())
    height = _TOP + _ROW * max(row for panel in panels for _, row in panel.boxes) + (52 if is_folded else 26)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="14">',
        f"<title>{', '.join(panel.title for panel in panels)}</title>",
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colors.soft}"/></marker>',
    ]
    left = _BETWEEN
    for panel in panels:
        parts += [f'<g transform="translate({left} 0)">', *_draw_panel(panel, colors), "</g>"]
        left += _width(panel) + _BETWEEN
    if is_folded:
        parts.append(_text(_BETWEEN, height - 10, _NOTE, colors.good, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_panel(panel: Panel, colors: Colors) -> Iterator[str]:
    yield _text(_COLUMN // 2 - _HALF_WIDTH, 24, panel.title, colors.text, "start", "600")
    for arrow in panel.arrows:
        yield f'<path d="{_route(arrow, panel)}" fill="none" stroke="{colors.soft}" marker-end="url(#tip)"/>'
        if arrow.label:
            yield _draw_label(arrow, panel, colors)
    for cell, text in panel.boxes.items():
        yield from _draw_box(cell, text, colors)


def _draw_box(cell: Cell, text: str, colors: Colors) -> Iterator[str]:
    x, y = _center(cell)
    half_width, half_height = _half(text)
    takes_p, is_skipped = text.endswith("*"), text.startswith("~")
    stroke = f'stroke="{colors.good}" stroke-width="2"' if takes_p else f'stroke="{colors.edge}"'
    if text not in _DATA:
        radius = _RADIUS if text in _JOINS else 5
        dashes = ' stroke-dasharray="4 4"' if is_skipped else ""
        yield (
            f'<rect x="{x - half_width:g}" y="{y - half_height:g}" width="{2 * half_width}" height="{2 * half_height}" '
            f'rx="{radius}" fill="{colors.fill}" {stroke}{dashes}/>'
        )
    yield _text(x, y + 5, text.strip("~*"), colors.soft if is_skipped else colors.text)


def _draw_label(arrow: Arrow, panel: Panel, colors: Colors) -> str:
    (x_start, y_start), (x_end, y_end) = _center(arrow.start), _center(arrow.end)
    if arrow.way == "around":
        return _text(_lane(panel) + 6, (y_start + y_end) / 2, arrow.label, colors.soft, "start")
    return _text((x_start + x_end) / 2, y_end - 6, arrow.label, colors.soft)


def _route(arrow: Arrow, panel: Panel) -> str:
    (x_start, y_start), (x_end, y_end) = _center(arrow.start), _center(arrow.end)
    (wide_start, high_start), (wide_end, high_end) = _half(panel.boxes[arrow.start]), _half(panel.boxes[arrow.end])
    if arrow.way == "around":
        return f"M{x_start + wide_start:g} {y_start}H{_lane(panel)}V{y_end}H{x_end + wide_end + 2:g}"
    if x_start == x_end:
        return f"M{x_start:g} {y_start + high_start}V{y_end - high_end - 2}"
    side = 1 if x_end > x_start else -1
    if arrow.way == "down":
        return f"M{x_start:g} {y_start + high_start}V{y_end}H{x_end - side * (wide_end + 2):g}"
    return f"M{x_start + side * wide_start:g} {y_start}H{x_end:g}V{y_end - high_end - 2}"


def _center(cell: Cell) -> tuple[float, int]:
    column, row = cell
    return (column + 0.5) * _COLUMN, _TOP + row * _ROW


def _half(text: str) -> tuple[int, int]:
    """Return half a box's width and height."""
    if text in _JOINS:
        return _RADIUS, _RADIUS
    return (10, 10) if text in _DATA else (_HALF_WIDTH, _HALF_HEIGHT)


def _lane(panel: Panel) -> int:
    """Return where an arrow goes down that passes the other boxes."""
    return (1 + max(column for column, _ in panel.boxes)) * _COLUMN + _LANE - (_COLUMN // 2 - _HALF_WIDTH)


def _width(panel: Panel) -> int:
    labels = [arrow.label for arrow in panel.arrows if arrow.way == "around"]
    columns = (1 + max(column for column, _ in panel.boxes)) * _COLUMN
    return max(columns + _LANE + 8 * max(map(len, labels), default=0), 8 * len(panel.title))


def _text(x: float, y: float, text: str, color: str, anchor: str = "middle", weight: str = "400") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{color}" font-weight="{weight}" text-anchor="{anchor}">{text}</text>'


def main() -> None:
    """Write every diagram."""
    for name, panels in DIAGRAMS.items():
        for suffix, colors in (("light", LIGHT), ("dark", DARK)):
            (ASSETS / f"blocks-{name}-{suffix}.svg").write_text(draw_diagram(panels, colors))


if __name__ == "__main__":
    main()
