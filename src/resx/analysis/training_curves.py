"""The curves of a run: loss and accuracy of every epoch, with the best epoch marked, as curves.png and curves.svg."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resx.analysis.figures import LOOKS, Look, require_matplotlib, style_axes
from resx.files.staging import write_atomic
from resx.training.config import BestBy
from resx.training.run_metrics import HELD_OUT_NAMES, VALIDATION_NAMES, Metrics, best_of

NAMES = ("curves.png", "curves.svg")
_SIZE_INCHES = (9.6, 3.6)
_DOTS_PER_INCH = 130
_LOOK = LOOKS[0]


def write_curves(metrics: Sequence[Metrics], best_by: BestBy, title: str, folder: Path) -> list[Path]:
    """Draw a run's metrics, an entry per epoch, into a folder and return the files.

    Raises:
        MissingCapability: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, facecolor=_LOOK.background, layout="constrained")
    FigureCanvasAgg(figure)
    best = metrics[best_of(metrics, best_by)]["epoch"]
    for axes, lines, what in zip(figure.subplots(1, 2), _panels(metrics[0]), ("loss", "accuracy (%)"), strict=True):
        _draw(axes, metrics, lines, scale=100.0 if "%" in what else 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axvline(best, color=_LOOK.grid, linestyle="--", zorder=1, label=f"best epoch: {best}")
        axes.legend(frameon=False, labelcolor=_LOOK.text)
        style_axes(axes, _LOOK, x="epoch", y=what)
    figure.suptitle(title, color=_LOOK.text, parse_math=False)
    written = []
    for name, metadata in zip(NAMES, ({"Software": None}, {"Date": None}), strict=True):
        drawn = io.BytesIO()
        with rc_context({"svg.hashsalt": "resx"}):  # the same file each time
            figure.savefig(drawn, format=name.rpartition(".")[2], facecolor=_LOOK.background, metadata=metadata)
        write_atomic(folder / name, drawn.getvalue())
        written.append(folder / name)
    return written


def _panels(entry: Metrics) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the metrics of the two panels with their labels."""
    of_losses = {"loss": "training", HELD_OUT_NAMES["loss"]: "held out", VALIDATION_NAMES["loss"]: "validation"}
    of_accuracies = {HELD_OUT_NAMES["accuracy"]: "held out", VALIDATION_NAMES["accuracy"]: "validation"}
    return (
        {key: label for key, label in of_losses.items() if key in entry},
        {key: label for key, label in of_accuracies.items() if key in entry},
    )


def _draw(axes: Any, metrics: Sequence[Metrics], lines: Mapping[str, str], *, scale: float) -> None:
    epochs = [entry["epoch"] for entry in metrics]
    for key, label in lines.items():
        values = [scale * entry[key] if key in entry else None for entry in metrics]
        axes.plot(epochs, values, color=_color(label, _LOOK), marker="o", markersize=2.5, linewidth=1.4, label=label)


def _color(label: str, look: Look) -> str:
    return {"training": look.text, "held out": look.main, "validation": look.second}[label]
