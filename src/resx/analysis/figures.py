"""Figures of the two studies, each in a light and a dark form, each with a caption that states its run's numbers.

matplotlib is imported here, when a figure is drawn, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.errors import MissingCapability

if TYPE_CHECKING:
    pass

_SIZE_INCHES = (6.4, 4.4)
_DOTS_PER_INCH = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colours of a form."""

    name: str
    background: str
    text: str
    grid: str
    main: str
    second: str


LOOKS = (
    Look(name="light", background="#ffffff", text="#1f2328", grid="#d8dee4", main="#0b62b8", second="#c2410c"),
    Look(name="dark", background="#0d1117", text="#e6edf3", grid="#30363d", main="#6cb6ff", second="#f0883e"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure: what draws it, and what is said below it."""

    name: str
    x: str
    y: str
    caption: str
    draw: Callable[[Any, Look], None]
    """Draws on matplotlib's axes."""


def require_matplotlib() -> None:
    """Check that figures can be drawn here.

    Raises:
        MissingCapability: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingCapability("matplotlib is not installed; pip install 'resx[analysis]', or use --no-figures")


def write_figures(figures: list[Figure], folder: Path) -> list[Path]:
    """Write each figure as NAME-light.png and NAME-dark.png and return the files."""
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_figure(figure, look, folder) for figure in figures for look in LOOKS]


def style_axes(axes: Any, look: Look, *, x: str, y: str) -> None:
    """Give matplotlib's axes a look and the names of what they show."""
    axes.set_xlabel(x, color=look.text)
    axes.set_ylabel(y, color=look.text)
    axes.tick_params(colors=look.text)
    axes.grid(True, color=look.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(look.grid)


def _write_figure(figure: Figure, look: Look, folder: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    # Not pyplot: it keeps state, and would choose a window system.
    canvas = Canvas(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, facecolor=look.background)
    FigureCanvasAgg(canvas)
    caption = textwrap.fill(figure.caption, 92)
    bottom = 0.16 + 0.042 * (caption.count("\n") + 1)
    axes = canvas.add_axes((0.11, bottom, 0.86, 0.96 - bottom), facecolor=look.background)
    figure.draw(axes, look)
    style_axes(axes, look, x=figure.x, y=figure.y)
    if legend := axes.get_legend():
        legend.get_frame().set(facecolor=look.background, edgecolor=look.grid)
        for label in legend.get_texts():
            label.set_color(look.text)
    # A run's name may hold `$`, which is no formula.
    canvas.text(0.02, 0.02, caption, color=look.text, fontsize=8.5, va="bottom", parse_math=False)
    path = folder / f"{figure.name}-{look.name}.png"
    canvas.savefig(path, facecolor=look.background, metadata={"Software": None})
    return path
