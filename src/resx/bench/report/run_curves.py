"""The curves of several runs in one picture: accuracy and loss by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resx.figures import Figure, Look, draw_figure
from resx.training.runs.run_listing import Epoch

_STYLES = ("-", "--", ":", "-.")
_NUM_COLORS = 10
"""Of matplotlib's own cycle; runs beyond it have other dashes."""
_MOST_NAMED = 24


def draw_curves(curves: Mapping[str, Sequence[Epoch]], title: str, path: Path) -> None:
    """Write the figure: a line for each run, of one epoch a mark; more than a legend can hold have no names."""

    def draw_accuracy(axes: Any, _look: Look) -> None:
        for number, (name, epochs) in enumerate(curves.items()):
            values = [100 * one.accuracy for one in epochs]
            axes.plot(_epochs(epochs), values, label=name.replace("$", r"\$"), **_how(number, alone=len(epochs) == 1))
        axes.set(xlabel="epoch", ylabel="held-out images right, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(curves) <= _MOST_NAMED:
            axes.legend(fontsize=7)

    def draw_loss(axes: Any, _look: Look) -> None:
        for number, epochs in enumerate(curves.values()):
            axes.plot(_epochs(epochs), [one.loss for one in epochs], **_how(number, alone=len(epochs) == 1))
        axes.set(xlabel="epoch", ylabel="mean training loss")
        axes.xaxis.get_major_locator().set_params(integer=True)

    draw_figure(Figure(name="runs", panels=(draw_accuracy, draw_loss), caption=title), path)


def _epochs(epochs: Sequence[Epoch]) -> list[int]:
    return [one.epoch for one in epochs]


def _how(number: int, *, alone: bool) -> dict[str, Any]:
    color, style = number % _NUM_COLORS, _STYLES[number // _NUM_COLORS % len(_STYLES)]
    return {"color": f"C{color}", "linestyle": style, "linewidth": 1.5, "marker": "o" if alone else "", "markersize": 4}
