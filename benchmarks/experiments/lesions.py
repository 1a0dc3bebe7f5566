"""Lesions (Veit et al. 2016, section 4): blocks deleted, several deleted, blocks exchanged.

A ResNet, a DenseNet, a plain network and a VGG, all trained until they classify the digits. The VGG is of the 2014
kind, without batch norm, but narrow (its first stage has 32 channels) and trained at a fifth of the learning rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.experiments.experiment import (
    VEIT_2016,
    Chart,
    Claim,
    Experiment,
    Measured,
    mean_of,
    variant_rows,
)
from benchmarks.experiments.pairing import paired, verdict
from benchmarks.experiments.rows import Row
from benchmarks.experiments.training import Setting, Trained
from scipy import stats

from resx.analysis.lesion.study import LesionPlan, LesionStudy, study
from resx.analysis.lesion.variants import deletable
from resx.analysis.network_steps import prepare_steps, steps_of
from resx.export.graph.batchnorm_fusion import fuse
from resx.figures import Look
from resx.zoo.architectures import VGGArchitecture
from resx.zoo.depths import densenet_cifar

RESNET, DENSENET, PLAIN, VGG = "resnet56", "densenet22_12", "plain20", "vgg11, narrow"
NAMES = (RESNET, DENSENET, PLAIN, VGG)
MAX_DELETED, DRAWS = 10, 10

SETTINGS = (
    Setting(network=RESNET, epochs=20),
    Setting(network=DENSENET, epochs=20, architecture=densenet_cifar(22, growth_rate=12)),
    Setting(network=PLAIN, epochs=20),
    Setting(
        network=VGG,
        epochs=20,
        batch_size=16,
        learning_rate=0.01,
        architecture=VGGArchitecture(stage_depths=(2, 2, 2, 2), stage_widths=(32, 64, 128, 128), hidden_width=512),
    ),
)


def analyze(trained: Trained, seed: int) -> Measured:
    """Take a network apart on its held-out images."""
    steps = steps_of(trained.model, trained.spec)
    largest = min(MAX_DELETED, len(deletable(steps)))
    plan = LesionPlan(
        model=trained.spec.name,
        weights_sha256="",
        data=trained.data.name,
        num_images=len(trained.data.held_out),
        draws=DRAWS,
        max_deleted=largest,
        seed=seed,
    )
    fast = prepare_steps(steps, lambda part: fuse(part, target="cpu"))
    return measured(study(steps, fast, trained.spec, trained.data, plan, None))


def measured(found: LesionStudy) -> Measured:
    """Return what of a study the page needs."""
    room = max(found.chance_error - found.error, 1e-9)
    singles = [block.error - found.error for block in found.blocks]
    kept_shape = [block.error - found.error for block in found.blocks if not block.changes_shape]
    values = {
        "single_median": found.median_single_increase,
        "single_worst": max(singles),
        "single_median_kept_shape": statistics.median(kept_shape),
        "first_share": (found.deleted[0].mean - found.error) / room,
        "deleted_tau": _rank_correlation(
            [one.k for one in found.deleted], [one.mean for one in found.deleted], stats.kendalltau
        ),
    }
    if found.reorderings:
        taus, errors = zip(*((one.kendall_tau, one.error) for one in found.reorderings), strict=True)
        values["order_tau"] = _rank_correlation(taus, errors, stats.spearmanr)
    return Measured(
        values=values,
        series={
            "single": tuple(block.error for block in found.blocks),
            "deleted": (found.error, *(one.mean for one in found.deleted)),
            "taus": tuple(one.kendall_tau for one in found.reorderings),
            "order_errors": tuple(one.error for one in found.reorderings),
        },
    )


def _rank_correlation(causes: Sequence[float], errors: Sequence[float], measure: Callable[..., Any]) -> float:
    """Return a rank correlation; 0 where all errors are equal."""
    return float(measure(causes, errors)[0]) if len(set(errors)) > 1 else 0.0


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare single lesions between families, and see whether error grows with deletions and with disorder."""
    resnet = variant_rows(rows, RESNET)
    found = []
    for other in (VGG, PLAIN, DENSENET):
        extra = paired(variant_rows(rows, other), resnet, lambda row: row.measure("single_median"))
        in_paper = other == VGG
        found.append(
            Claim(
                source=f"{VEIT_2016}, figure 3",
                says="Without one layer VGG falls to chance; a ResNet loses little."
                if in_paper
                else "The same; the paper has no such network.",
                figure="a figure only: VGG at chance, the ResNet near its own error" if in_paper else "-",
                ours=f"median loss without one layer, {other} minus {RESNET}: {extra.text(100, ' points')}",
                num_seeds=extra.num_seeds,
                verdict=verdict(extra, "above"),
            )
        )
    several, order = mean_of(resnet, "deleted_tau"), mean_of(resnet, "order_tau")
    return [
        *found,
        Claim(
            source=f"{VEIT_2016}, figure 5 (a)",
            says="Error grows smoothly with the number of blocks deleted from a ResNet.",
            figure="a figure only",
            ours=f"Kendall's tau of number and mean error: {several.text()}",
            num_seeds=several.num_seeds,
            verdict=verdict(several, "above"),
        ),
        Claim(
            source=f"{VEIT_2016}, figure 5 (b)",
            says="Error grows with the disorder of exchanged blocks.",
            figure="a figure only",
            ours=f"Spearman's correlation of Kendall's tau of the order with the error: {order.text()}",
            num_seeds=order.num_seeds,
            verdict=verdict(order, "below"),
        ),
    ]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the three kinds of lesions, means over the seeds."""
    return [
        Chart(
            name="lesions-single",
            caption="Error without one layer or block, mean over the seeds.",
            x="place in the network (0: first, 1: last)",
            y="held-out error, %",
            draw=lambda axes, look: _draw_series(axes, look, rows, "single", is_share=True),
        ),
        Chart(
            name="lesions-deleted",
            caption=f"Error without several random layers or blocks, mean over {DRAWS} draws and the seeds.",
            x="number deleted",
            y="held-out error, %",
            draw=lambda axes, look: _draw_series(axes, look, rows, "deleted", is_share=False),
        ),
        Chart(
            name="lesions-order",
            caption=f"Error of {RESNET} after random exchanges of blocks of one shape, a dot for each order.",
            x="Kendall's tau of the order (1: as trained)",
            y="held-out error, %",
            draw=lambda axes, look: _draw_orders(axes, look, variant_rows(rows, RESNET)),
        ),
    ]


def _draw_series(axes: Any, look: Look, rows: Sequence[Row], name: str, *, is_share: bool) -> None:
    for network, style in zip(NAMES, ("o-", "s--", "o:", "s-."), strict=True):
        known = [row.series[name] for row in variant_rows(rows, network) if name in row.series]
        if known:
            means = [100 * statistics.mean(numbers) for numbers in zip(*known, strict=True)]
            places = [index / max(1, len(means) - 1) if is_share else index for index in range(len(means))]
            color = look.main if network in (RESNET, DENSENET) else look.second
            axes.plot(places, means, style, ms=3, linewidth=1, color=color, label=network)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _draw_orders(axes: Any, look: Look, rows: Sequence[Row]) -> None:
    for row in rows:
        axes.plot(
            row.series.get("taus", ()),
            [100 * error for error in row.series.get("order_errors", ())],
            "o",
            ms=3,
            color=look.main,
        )
    axes.invert_xaxis()
    axes.set_ylim(bottom=0)


EXPERIMENT = Experiment(
    name="lesions",
    title="Lesions",
    settings=SETTINGS,
    claims=claims,
    charts=charts,
    analyze=analyze,
    notes="Chance is an error of about 90 %. Where a plain layer changes the shape, the shortcut of option A stands in "
    "for it. The VGG has eight convolutions in four stages, as many as images of 16 pixels allow, and no batch norm.",
    columns=(
        ("lost without one, median, points", "single_median", 100.0, 2),
        ("worst, points", "single_worst", 100.0, 1),
        ("share of the way to chance after one random deletion, %", "first_share", 100.0, 1),
    ),
)
