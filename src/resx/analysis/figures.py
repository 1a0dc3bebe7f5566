"""Figures of the two studies, each in a light and a dark form, each with a caption that states its run's numbers.

matplotlib is imported here, when a figure is drawn, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.errors import MissingCapability

if TYPE_CHECKING:
    from resx.analysis.lesion import LesionStudy

_SIZE_INCHES = (6.4, 4.4)
_DOTS_PER_INCH = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colours of a form."""

    name: str
    background: str
    text: str
    grid: str
    main: str
    second: str


LOOKS = (
    Look(name="light", background="#ffffff", text="#1f2328", grid="#d8dee4", main="#0b62b8", second="#c2410c"),
    Look(name="dark", background="#0d1117", text="#e6edf3", grid="#30363d", main="#6cb6ff", second="#f0883e"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure: what draws it, and what is said below it."""

    name: str
    x: str
    y: str
    caption: str
    draw: Callable[[Any, Look], None]
    """Draws on matplotlib's axes."""


def require_matplotlib() -> None:
    """Check that figures can be drawn here.

    Raises:
        MissingCapability: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingCapability(
            "figures: matplotlib is not installed; pip install 'resx[analysis]', or --no-figures for the JSON alone"
        )


def draw_lesions(study: LesionStudy, folder: Path) -> list[Path]:
    """Draw a lesion study's figures into a folder and return their files.

    Raises:
        MissingCapability: matplotlib is not installed.
    """
    figures = [_single_lesions(study), _deletions(study)]
    return drawn([*figures, _reorderings(study)] if study.reorderings else figures, folder)


def drawn(figures: list[Figure], folder: Path) -> list[Path]:
    """Write each figure as NAME-light.png and NAME-dark.png and return the files."""
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(figure, look, folder) for figure in figures for look in LOOKS]


def _written(figure: Figure, look: Look, folder: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    # Not pyplot: it keeps state, and would choose a window system.
    canvas = Canvas(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, facecolor=look.background)
    FigureCanvasAgg(canvas)
    caption = textwrap.fill(figure.caption, 92)
    bottom = 0.16 + 0.042 * (caption.count("\n") + 1)
    axes = canvas.add_axes((0.11, bottom, 0.86, 0.96 - bottom), facecolor=look.background)
    figure.draw(axes, look)
    axes.set_xlabel(figure.x, color=look.text)
    axes.set_ylabel(figure.y, color=look.text)
    axes.tick_params(colors=look.text)
    axes.grid(True, color=look.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(look.grid)
    if legend := axes.get_legend():
        legend.get_frame().set(facecolor=look.background, edgecolor=look.grid)
        for label in legend.get_texts():
            label.set_color(look.text)
    # A run's name may hold `$`, which is no formula.
    canvas.text(0.02, 0.02, caption, color=look.text, fontsize=8.5, va="bottom", parse_math=False)
    path = folder / f"{figure.name}-{look.name}.png"
    canvas.savefig(path, facecolor=look.background, metadata={"Software": None})
    return path


def _single_lesions(study: LesionStudy) -> Figure:
    what = "block" if study.has_shortcuts else "layer"
    keeping = [one for one in study.blocks if not one.changes_shape]
    changing = [one for one in study.blocks if one.changes_shape]

    def draw(axes: Any, look: Look) -> None:
        for some, colour, label in ((keeping, look.main, f"without this {what}"),
                                    (changing, look.second, f"{what} that changes the shape")):  # fmt: skip
            if some:
                axes.plot([one.block for one in some], [100 * one.error for one in some], "o", ms=4, color=colour,
                          label=label)  # fmt: skip
        axes.axhline(100 * study.error, color=look.text, linewidth=1, label="whole network")
        axes.axhline(100 * study.chance_error, color=look.text, linewidth=1, linestyle=":", label="chance")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)

    return Figure(
        name="lesion-single",
        x=what,
        y="error, %",
        caption=f"{study.plan.model}, {study.plan.num_images} held-out images of {study.plan.data}: error "
        f"{study.error:.2%} whole; without one of {study.num_blocks} {what}s the median increase is "
        f"{100 * study.median_single_increase:+.2f} points, the worst "
        f"{100 * (max(one.error for one in study.blocks) - study.error):+.2f}.",
        draw=draw,
    )


def _deletions(study: LesionStudy) -> Figure:
    spreads = study.deleted

    def draw(axes: Any, look: Look) -> None:
        ks = [one.k for one in spreads]
        axes.fill_between(ks, [100 * one.lowest for one in spreads], [100 * one.highest for one in spreads],
                          color=look.main, alpha=0.18, linewidth=0, label="lowest to highest")  # fmt: skip
        axes.errorbar(ks, [100 * one.mean for one in spreads], [100 * one.std for one in spreads], color=look.main,
                      fmt="o-", ms=3, linewidth=1, capsize=2, label="mean and standard deviation")  # fmt: skip
        axes.axhline(100 * study.error, color=look.text, linewidth=1, label="whole network")
        axes.axhline(100 * study.chance_error, color=look.text, linewidth=1, linestyle=":", label="chance")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)

    last = spreads[-1]
    return Figure(
        name="lesion-deleted",
        x="random blocks deleted",
        y="error, %",
        caption=f"{study.plan.model}: error {study.error:.2%} whole, {spreads[0].mean:.2%} without one random block, "
        f"{last.mean:.2%} (standard deviation {100 * last.std:.2f} points) without {last.k} of {study.num_blocks}; "
        f"{study.plan.draws} draws for each number.",
        draw=draw,
    )


def _reorderings(study: LesionStudy) -> Figure:
    def draw(axes: Any, look: Look) -> None:
        axes.plot([one.kendall_tau for one in study.reorderings], [100 * one.error for one in study.reorderings], "o",
                  ms=3.5, color=look.main, label="a random order")  # fmt: skip
        axes.axhline(100 * study.error, color=look.text, linewidth=1, label="the order it was trained in")
        axes.axhline(100 * study.chance_error, color=look.text, linewidth=1, linestyle=":", label="chance")
        axes.invert_xaxis()
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)

    first, last = study.swapped[0], study.swapped[-1]
    return Figure(
        name="lesion-reordered",
        x="Kendall's tau of the order of the blocks",
        y="error, %",
        caption=f"{study.plan.model}: error {study.error:.2%} in order; {first.mean:.2%} after {first.k} exchange of "
        f"two blocks of one shape, {last.mean:.2%} after {last.k}; {study.plan.draws} draws for each number.",
        draw=draw,
    )
