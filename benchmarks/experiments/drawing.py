"""Charts as SVG files for light and for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.experiment import Chart

from resx.figures import DARK, LIGHT, Figure, Look, draw_figure


def write_charts(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write each chart as experiments-NAME-light.svg and experiments-NAME-dark.svg and return the files."""
    paths = []
    for chart in charts:
        figure = Figure(name=f"experiments-{chart.name}", caption=chart.caption, panels=(_panel(chart),))
        for look in (LIGHT, DARK):
            paths.append(folder / f"{figure.name}-{look.name}.svg")
            draw_figure(figure, paths[-1])
    return paths


def _panel(chart: Chart) -> Any:
    def draw(axes: Any, look: Look) -> None:
        chart.draw(axes, look)
        axes.set(xlabel=chart.x, ylabel=chart.y)

    return draw
