"""One figure in one file: what `--plot` asks for. matplotlib is imported here, when the figure is drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resx.analysis.figures import LOOKS, Look, require_matplotlib
from resx.errors import UsageError

SUFFIXES = (".png", ".svg", ".pdf")


def require_drawable(path: Path) -> None:
    """Check that a figure can be drawn into the file, before what it shows is measured.

    Raises:
        UsageError: it ends in something else, is a folder, or cannot be written.
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


@contextmanager
def draw_into(path: Path, title: str) -> Iterator[tuple[Any, Look]]:
    """Give matplotlib's axes and the colours to draw with, and write the file."""
    with _open_figure(path, (7.2, 4.6)) as (figure, look):
        axes = figure.add_subplot(facecolor=look.background)
        yield axes, look
        axes.set_title(title, fontsize=9, parse_math=False)  # `$` in a name is no formula
        axes.grid(True, color=look.grid, linewidth=0.6)


@contextmanager
def draw_panels(path: Path, title: str) -> Iterator[tuple[tuple[Any, Any], Look]]:
    """Give the axes of two panels side by side and the colours to draw with, and write the file."""
    with _open_figure(path, (11.0, 4.8)) as (figure, look):
        left, right = (figure.add_subplot(1, 2, place, facecolor=look.background) for place in (1, 2))
        yield (left, right), look
        figure.suptitle(title, fontsize=9, parse_math=False)
        for axes in (left, right):
            axes.grid(True, color=look.grid, linewidth=0.6)
            axes.set_axisbelow(True)


@contextmanager
def _open_figure(path: Path, size_inches: tuple[float, float]) -> Iterator[tuple[Any, Look]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    look = LOOKS[0]
    figure = Figure(figsize=size_inches, dpi=160, facecolor=look.background, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure, look
    figure.savefig(path, facecolor=look.background)
