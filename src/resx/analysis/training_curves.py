"""The curves of a run: loss and accuracy of every epoch, with the best epoch marked, as curves.png and curves.svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resx.figures import Draw, Figure, Look, draw_figure
from resx.training.config import BestBy
from resx.training.runs.run_metrics import HELD_OUT_NAMES, VALIDATION_NAMES, Metrics, best_of

NAMES = ("curves.png", "curves.svg")


def write_curves(metrics: Sequence[Metrics], best_by: BestBy, title: str, folder: Path) -> list[Path]:
    """Draw a run's metrics, an entry per epoch, into a folder and return the files.

    Raises:
        MissingCapability: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    best = metrics[best_of(metrics, best_by)]["epoch"]
    losses = {"loss": "training", HELD_OUT_NAMES["loss"]: "held out", VALIDATION_NAMES["loss"]: "validation"}
    accuracies = {HELD_OUT_NAMES["accuracy"]: "held out", VALIDATION_NAMES["accuracy"]: "validation"}
    panels = (
        _panel(metrics, losses, best, "loss"),
        _panel(metrics, accuracies, best, "accuracy, %", scale=100.0),
    )
    figure = Figure(name="curves", panels=panels, caption=f"{title}: {len(metrics)} epochs, the best is {best}.")
    for name in NAMES:
        draw_figure(figure, folder / name)
    return [folder / name for name in NAMES]


def _panel(metrics: Sequence[Metrics], lines: Mapping[str, str], best: int, what: str, *, scale: float = 1.0) -> Draw:
    """Draw the metrics that the first epoch has."""
    shown = {key: label for key, label in lines.items() if key in metrics[0]}
    epochs = [entry["epoch"] for entry in metrics]

    def draw(axes: Any, look: Look) -> None:
        for key, label in shown.items():
            values = [scale * entry[key] if key in entry else None for entry in metrics]
            color = {"training": look.text, "held out": look.main, "validation": look.second}[label]
            axes.plot(epochs, values, color=color, marker="o", markersize=2.5, linewidth=1.4, label=label)
        axes.axvline(best, color=look.grid, linestyle="--", zorder=1, label=f"best epoch: {best}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="epoch", ylabel=what)
        axes.legend(fontsize=8, frameon=False)

    return draw
