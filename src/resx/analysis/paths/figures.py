"""The three figures of a study of paths: their lengths (a), their gradients (b), and the product of both (c)."""

from __future__ import annotations

from typing import Any

from resx.analysis.paths.study import PathGradients, PathLengths
from resx.figures import Figure, Look

_LENGTH = "path length (blocks)"


def path_figures(name: str, lengths: PathLengths, gradients: PathGradients | None) -> list[Figure]:
    """Return the figures; without gradients the first alone."""
    figures = [_lengths(name, lengths)]
    if gradients is not None:
        figures += [_gradients(name, gradients), _product(name, lengths, gradients)]
    return figures


def _lengths(name: str, lengths: PathLengths) -> Figure:
    def draw(axes: Any, look: Look) -> None:
        axes.bar(range(len(lengths.shares)), [100 * share for share in lengths.shares], color=look.main, width=0.85)
        axes.set(xlabel=_LENGTH, ylabel="paths of that length (% of all)")
        _mark(axes, look, lengths.span.low, lengths.span.high)

    return Figure(
        name="paths-a-lengths",
        caption=f"(a) {name}: {float(sum(lengths.counts)):.3g} paths through {lengths.num_blocks} blocks; the mean "
        f"length is {lengths.mean:.1f}, and {lengths.span.share:.1%} of them have {lengths.span.low} to "
        f"{lengths.span.high} blocks (shaded).",
        panels=(draw,),
    )


def _gradients(name: str, gradients: PathGradients) -> Figure:
    found = [one for one in gradients.lengths if one.mean > 0]

    def draw(axes: Any, look: Look) -> None:
        axes.semilogy([one.length for one in found], [one.mean for one in found], "o", ms=3.5, color=look.main)
        axes.set(xlabel=_LENGTH, ylabel="gradient per path")

    shortest, longest = found[0], found[-1]
    return Figure(
        name="paths-b-gradients",
        caption=f"(b) {name}: mean norm of an image's gradient at the first block's input along one path, over "
        f"{gradients.num_images} images and up to {max(one.num_paths for one in gradients.lengths)} sampled paths a "
        f"length: {shortest.mean:.2g} at length {shortest.length}, {longest.mean:.2g} at {longest.length}.",
        panels=(draw,),
    )


def _product(name: str, lengths: PathLengths, gradients: PathGradients) -> Figure:
    def draw(axes: Any, look: Look) -> None:
        axes.bar(
            range(len(gradients.shares)), [100 * share for share in gradients.shares], color=look.second, width=0.85
        )
        axes.set(xlabel=_LENGTH, ylabel="paths x gradient (% of total)")
        _mark(axes, look, gradients.span.low, gradients.span.high)

    span = gradients.span
    return Figure(
        name="paths-c-product",
        caption=f"(c) {name}: paths of {span.low} to {span.high} blocks carry {span.share:.1%} of the gradient "
        f"(shaded), with a mean length of {gradients.mean_length:.1f} where that of all paths is {lengths.mean:.1f}.",
        panels=(draw,),
    )


def _mark(axes: Any, look: Look, low: int, high: int) -> None:
    axes.axvspan(low - 0.5, high + 0.5, color=look.grid, alpha=0.45, zorder=0)
