"""The curves of several runs in one picture: accuracy and loss by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resx.bench.report.figure_file import draw_panels
from resx.training.run_listing import Epoch

_STYLES = ("-", "--", ":", "-.")
_NUM_COLORS = 10
"""Of matplotlib's own cycle; runs beyond it have other dashes."""
_MOST_NAMED = 24


def draw_curves(curves: Mapping[str, Sequence[Epoch]], title: str, path: Path) -> None:
    """Write the figure: a line for each run, of one epoch a mark; more than a legend can hold have no names."""
    with draw_panels(path, title) as ((left, right), look):
        for number, (name, epochs) in enumerate(curves.items()):
            places = [one.epoch for one in epochs]
            how = _how(number, alone=len(epochs) == 1)
            left.plot(places, [100 * one.accuracy for one in epochs], label=name.replace("$", r"\$"), **how)
            right.plot(places, [one.loss for one in epochs], **how)
        left.set(xlabel="epoch", ylabel="held-out images right, %")
        right.set(xlabel="epoch", ylabel="mean training loss")
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.tick_params(colors=look.text)
        if len(curves) <= _MOST_NAMED:
            left.legend(fontsize=7)


def _how(number: int, *, alone: bool) -> dict[str, Any]:
    color, style = number % _NUM_COLORS, _STYLES[number // _NUM_COLORS % len(_STYLES)]
    return {"color": f"C{color}", "linestyle": style, "linewidth": 1.5, "marker": "o" if alone else "", "markersize": 4}
