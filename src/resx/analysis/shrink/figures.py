"""The figure of `resx shrink --pareto`: accuracy and latency of every size that the search went through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resx.analysis.shrink.search import ShrunkenNetwork, front
from resx.figures import Figure, Look

_LATENCY = "latency in onnxruntime at batch 1, ms"


def front_figure(name: str, data: str, sizes: Sequence[ShrunkenNetwork]) -> Figure:
    """Return the figure: over the number of blocks, accuracy on the left and latency on the right.

    Args:
        name: of the network.
        data: that accuracy was measured on.
        sizes: the whole network first; each with a latency.
    """
    best = front(sizes)
    others = [one for one in sizes if one not in best]
    whole, least = sizes[0], best[-1]

    def draw_accuracy(axes: Any, look: Look) -> None:
        _plot(axes, others, [100 * one.accuracy for one in others], "o", look.text, "another size")
        _plot(axes, best, [100 * one.accuracy for one in best], "o-", look.main, "Pareto-optimal size")
        axes.set(ylabel="held-out accuracy, %")
        _finish(axes)

    def draw_latency(axes: Any, look: Look) -> None:
        measured = [one for one in sizes if not one.predicted]
        predicted = [one for one in sizes if one.predicted]
        if predicted:
            _plot(axes, predicted, [one.latency_ms or 0.0 for one in predicted], "o", look.text, "predicted")
        _plot(axes, measured, [one.latency_ms or 0.0 for one in measured], "o", look.second, "measured")
        axes.set(ylabel=_LATENCY, ylim=(0, None))
        _finish(axes)

    return Figure(
        name="pareto",
        panels=(draw_accuracy, draw_latency),
        caption=f"{name} on {data}: {100 * whole.accuracy:.2f} % and {whole.latency_ms:.3g} ms with all "
        f"{whole.num_blocks} blocks, {100 * least.accuracy:.2f} % and {least.latency_ms:.3g} ms with "
        f"{least.num_blocks}. Pareto-optimal: no network with as few blocks or fewer is as accurate.",
    )


def _plot(
    axes: Any, members: Sequence[ShrunkenNetwork], values: Sequence[float], style: str, color: str, label: str
) -> None:
    axes.plot([one.num_blocks for one in members], values, style, ms=4.5, color=color, label=label)


def _finish(axes: Any) -> None:
    axes.set(xlabel="blocks")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, loc="lower right")
