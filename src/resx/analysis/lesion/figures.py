"""The figures of a lesion study: single lesions, deletions, reorderings (Veit et al. 2016, figures 3 to 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resx.figures import Figure, Look

if TYPE_CHECKING:
    from resx.analysis.lesion.study import LesionStudy


def lesion_figures(study: LesionStudy) -> list[Figure]:
    """Return a lesion study's figures; that of reorderings only if blocks could be exchanged."""
    figures = [_single_lesions(study), _deletions(study)]
    return [*figures, _reorderings(study)] if study.reorderings else figures


def _single_lesions(study: LesionStudy) -> Figure:
    what = "block" if study.has_shortcuts else "layer"
    keeping = [one for one in study.blocks if not one.changes_shape]
    changing = [one for one in study.blocks if one.changes_shape]

    def draw(axes: Any, look: Look) -> None:
        for some, colour, label in (
            (keeping, look.main, f"without this {what}"),
            (changing, look.second, f"{what} that changes the shape"),
        ):
            if some:
                axes.plot(
                    [one.block for one in some], [100 * one.error for one in some], "o", ms=4, color=colour, label=label
                )
        axes.axhline(100 * study.error, color=look.text, linewidth=1, label="whole network")
        axes.axhline(100 * study.chance_error, color=look.text, linewidth=1, linestyle=":", label="chance")
        axes.set(xlabel=what, ylabel="error, %", ylim=(0, None))
        axes.legend(fontsize=8, loc="center right")

    return Figure(
        name="lesion-single",
        caption=f"{study.plan.model}, {study.plan.num_images} held-out images of {study.plan.data}: error "
        f"{study.error:.2%} whole; without one of {study.num_blocks} {what}s the median increase is "
        f"{100 * study.median_single_increase:+.2f} points, the worst "
        f"{100 * (max(one.error for one in study.blocks) - study.error):+.2f}.",
        panels=(draw,),
    )


def _deletions(study: LesionStudy) -> Figure:
    spreads = study.deleted

    def draw(axes: Any, look: Look) -> None:
        ks = [one.k for one in spreads]
        axes.fill_between(
            ks,
            [100 * one.lowest for one in spreads],
            [100 * one.highest for one in spreads],
            color=look.main,
            alpha=0.18,
            linewidth=0,
            label="lowest to highest",
        )
        axes.errorbar(
            ks,
            [100 * one.mean for one in spreads],
            [100 * one.std for one in spreads],
            color=look.main,
            fmt="o-",
            ms=3,
            linewidth=1,
            capsize=2,
            label="mean and standard deviation",
        )
        axes.axhline(100 * study.error, color=look.text, linewidth=1, label="whole network")
        axes.axhline(100 * study.chance_error, color=look.text, linewidth=1, linestyle=":", label="chance")
        axes.set(xlabel="random blocks deleted", ylabel="error, %", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="lower right")

    last = spreads[-1]
    return Figure(
        name="lesion-deleted",
        caption=f"{study.plan.model}: error {study.error:.2%} whole, {spreads[0].mean:.2%} without one random block, "
        f"{last.mean:.2%} (standard deviation {100 * last.std:.2f} points) without {last.k} of {study.num_blocks}; "
        f"{study.plan.draws} draws for each number.",
        panels=(draw,),
    )


def _reorderings(study: LesionStudy) -> Figure:
    def draw(axes: Any, look: Look) -> None:
        axes.plot(
            [one.kendall_tau for one in study.reorderings],
            [100 * one.error for one in study.reorderings],
            "o",
            ms=3.5,
            color=look.main,
            label="a random order",
        )
        axes.axhline(100 * study.error, color=look.text, linewidth=1, label="the order it was trained in")
        axes.axhline(100 * study.chance_error, color=look.text, linewidth=1, linestyle=":", label="chance")
        axes.invert_xaxis()
        axes.set(xlabel="Kendall's tau of the order of the blocks", ylabel="error, %", ylim=(0, None))
        axes.legend(fontsize=8, loc="upper left")

    first, last = study.swapped[0], study.swapped[-1]
    return Figure(
        name="lesion-reordered",
        caption=f"{study.plan.model}: error {study.error:.2%} in order; {first.mean:.2%} after {first.k} exchange of "
        f"two blocks of one shape, {last.mean:.2%} after {last.k}; {study.plan.draws} draws for each number.",
        panels=(draw,),
    )
