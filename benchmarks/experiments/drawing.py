"""Charts as SVG files for light and for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.experiment import Chart

from resx.analysis.figures import LOOKS, Look

_SIZE_INCHES = (6.4, 3.8)


def write_charts(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write each chart as experiments-NAME-light.svg and experiments-NAME-dark.svg; the same chart, the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(chart, look, folder) for chart in charts for look in LOOKS]


def _write(chart: Chart, look: Look, folder: Path) -> Path:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), look.text)
    settings |= dict.fromkeys(("axes.edgecolor", "legend.edgecolor", "grid.color"), look.grid)
    settings |= dict.fromkeys(("axes.facecolor", "legend.facecolor"), look.background)
    with mpl.rc_context(settings | {"svg.hashsalt": "resx", "axes.grid": True, "axes.axisbelow": True}):
        canvas = Figure(figsize=_SIZE_INCHES, facecolor=look.background, layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.add_subplot()
        chart.draw(axes, look)
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        path = folder / f"experiments-{chart.name}-{look.name}.svg"
        canvas.savefig(path, metadata={"Date": None})
    return path
