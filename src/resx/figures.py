"""Figures in files: PNG, SVG or PDF, for light and for dark pages, each with a caption that states its numbers.

The same figure gives the same bytes: no dates, and fixed names inside an SVG. matplotlib is imported when a figure is
drawn, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import io
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from resx.errors import MissingCapability, UsageError
from resx.files.staging import write_atomic

SUFFIXES = (".png", ".svg", ".pdf")

_NO_DATE: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_SIZE_INCHES = (6.4, 4.3)
_PANEL_INCHES = 4.6
"""Width of each of several panels."""
_LINE_INCHES = 0.17
_CHARACTERS_PER_INCH = 15.5
_DOTS_PER_INCH = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colors of a figure on a light or a dark page."""

    name: str
    background: str
    text: str
    grid: str
    main: str
    second: str


LIGHT = Look(name="light", background="#ffffff", text="#1f2328", grid="#d8dee4", main="#0b62b8", second="#c2410c")
DARK = Look(name="dark", background="#0d1117", text="#e6edf3", grid="#30363d", main="#6cb6ff", second="#f0883e")

Draw: TypeAlias = Callable[[Any, Look], None]
"""Draws on matplotlib's axes, labels included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One or more panels side by side, and the caption below them."""

    name: str
    panels: tuple[Draw, ...]
    caption: str


def join_figures(name: str, figures: Sequence[Figure]) -> Figure:
    """Return one figure with the panels and the captions of all."""
    return Figure(
        name=name,
        panels=tuple(panel for figure in figures for panel in figure.panels),
        caption="\n".join(figure.caption for figure in figures),
    )


def require_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        MissingCapability: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingCapability("matplotlib is not installed; pip install 'resx[analysis]'")


def require_drawable(path: Path) -> None:
    """Check that a figure can be drawn into the file, before what it shows is measured.

    Raises:
        UsageError: the file's name ends in another format, or it is a folder, or cannot be written.
        MissingCapability: matplotlib is not installed.
    """
    require_matplotlib()
    if path.suffix not in SUFFIXES or path.is_dir():
        raise UsageError(f"--plot {path}: give a file that ends in {', '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--plot {path}: {error.strerror}; give another folder") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"--plot {path}: may not be written; give another folder")


def draw_figure(figure: Figure, path: Path, *, dark: bool = False) -> None:
    """Write the figure in the format of the file's suffix, for a dark page with `dark` or as NAME-dark.SUFFIX.

    Raises:
        UsageError: the suffix is none of SUFFIXES.
        MissingCapability: matplotlib is not installed.
    """
    require_drawable(path)
    write_atomic(path, _render(figure, DARK if dark or path.stem.endswith("-dark") else LIGHT, path.suffix))


def draw_forms(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure into the folder as NAME-light and NAME-dark in every format, and return the files."""
    paths = []
    for figure in figures:
        for look in (LIGHT, DARK):
            for suffix in SUFFIXES:
                paths.append(folder / f"{figure.name}-{look.name}{suffix}")
                draw_figure(figure, paths[-1])
    return paths


def _render(figure: Figure, look: Look, suffix: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    settings: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), look.text)
    settings |= dict.fromkeys(("axes.edgecolor", "legend.edgecolor", "grid.color"), look.grid)
    settings |= dict.fromkeys(("axes.facecolor", "legend.facecolor"), look.background)
    settings |= {"svg.hashsalt": "resx", "axes.grid": True, "grid.linewidth": 0.6}
    # Not pyplot: it keeps state, and would choose a window system.
    with mpl.rc_context(settings):
        width = _SIZE_INCHES[0] if len(figure.panels) == 1 else _PANEL_INCHES * len(figure.panels)
        # A run's name may hold `$`, which is no formula.
        caption = "\n".join(
            textwrap.fill(line, int(width * _CHARACTERS_PER_INCH)) for line in figure.caption.splitlines()
        )
        height = _SIZE_INCHES[1] + _LINE_INCHES * (caption.count("\n") + 1)
        layout = ConstrainedLayoutEngine(w_pad=0.08, wspace=0.02)
        canvas = Canvas(figsize=(width, height), dpi=_DOTS_PER_INCH, facecolor=look.background, layout=layout)
        FigureCanvasAgg(canvas)
        for axes, draw in zip(canvas.subplots(1, len(figure.panels), squeeze=False)[0], figure.panels, strict=True):
            axes.set_axisbelow(True)
            draw(axes, look)
        canvas.supxlabel(caption, x=0.012, ha="left", fontsize=8.5, multialignment="left", parse_math=False)
        file = io.BytesIO()
        canvas.savefig(file, format=suffix[1:], facecolor=look.background, metadata=_NO_DATE[suffix])
    return file.getvalue()
