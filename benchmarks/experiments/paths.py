"""Paths (Veit et al. 2016, section 5): how long they are, and which lengths carry the gradient.

The lengths are binomial and exact. Gradients are measured along 64 random paths of each length, from a trained network.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.experiments.experiment import VEIT_2016, Chart, Claim, Experiment, Measured, mean_of
from benchmarks.experiments.pairing import Interval, Verdict, verdict
from benchmarks.experiments.rows import Row
from benchmarks.experiments.training import Setting, Trained
from scipy import stats

from resx.analysis.network_steps import steps_of
from resx.analysis.paths.study import PathLengths, PathTape, path_gradients, path_lengths, topology
from resx.data.dataset import pick_evenly
from resx.figures import Look
from resx.training.evaluation import normalize
from resx.zoo.catalog import variant

NETWORK, DRAWS, NUM_IMAGES = "resnet56", 64, 16
EPOCHS = 20
QUOTED = (5, 17, 0.45)
"""The paper's effective lengths of resnet110, and its share of all paths that have them, in %."""


def analyze(trained: Trained, seed: int) -> Measured:
    """Measure gradients along random paths on held-out images."""
    network = trained.spec
    lengths = path_lengths(topology(network.architecture, network.kept_blocks))
    chosen = pick_evenly(len(trained.data.held_out), NUM_IMAGES)
    images = normalize(trained.data.held_out.images[chosen], network, torch.device("cpu"))
    targets = torch.from_numpy(trained.data.held_out.targets[chosen])
    found = path_gradients(PathTape(steps_of(trained.model, network), images, targets), lengths, draws=DRAWS, seed=seed)
    known = [(one.length, math.log10(one.mean)) for one in found.lengths if one.mean > 0]
    slope = stats.linregress(*zip(*known, strict=True))
    return Measured(
        values={
            "mean_length": found.mean_length,
            "all_mean_length": lengths.mean,
            "low": found.span.low,
            "high": found.span.high,
            "share_of_paths": lengths.share_between(found.span.low, found.span.high),
            "slope": float(slope.slope),
            "fit": float(slope.rvalue**2),
        },
        series={
            "gradient": tuple(one.mean for one in found.lengths),
            "spread": tuple(one.std for one in found.lengths),
            "shares": tuple(found.shares),
        },
    )


def quoted_share() -> float:
    """Return the share of resnet110's paths, in %, that have the lengths that the paper calls effective."""
    return 100 * _lengths("resnet110").share_between(*QUOTED[:2])


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Count the paths of resnet110, and compare the gradient's lengths with those of all paths."""
    section = f"{VEIT_2016}, section 5"
    lengths = _lengths("resnet110")
    middle = 100 * lengths.share_between(19, 35)
    gap = _gap(rows)
    few, slope = mean_of(rows, "share_of_paths"), mean_of(rows, "slope")
    fit = mean_of(rows, "fit")
    return [
        _counted(section, "Over 95 % of resnet110's paths go through 19 to 35 blocks.", "95 %", middle, middle > 95),
        _counted(
            section, "Its effective paths, of 5 to 17 blocks, are 0.45 % of all.", f"{QUOTED[2]} %", quoted_share(),
            round(quoted_share(), 2) == QUOTED[2],
        ),
        Claim(
            source=section,
            says="Most of the gradient comes through paths that are much shorter than the mean.",
            figure="resnet110: 5 to 17 blocks, where the mean path has 27",
            ours=f"{NETWORK}: {_span(rows)} carry 95 % of it; mean length of the gradient minus that of all paths: "
            f"{gap.text(1, ' blocks', 1)}",
            num_seeds=gap.num_seeds,
            verdict=verdict(gap, "below"),
        ),
        Claim(
            source=section,
            says="These are few of all paths.",
            figure=f"{QUOTED[2]} % of resnet110's paths, with almost all of the gradient",
            ours=f"{NETWORK}: {few.text(100, ' % of all paths', signed=False)}, expected below 50 %",
            num_seeds=few.num_seeds,
            verdict=verdict(few, "below", bound=0.5),
        ),
        Claim(
            source=f"{section}, figure 6 (b)",
            says="The gradient along a path falls exponentially with its length.",
            figure="a figure only",
            ours=f"{NETWORK}: {slope.text(1, ' decades a block', 3)}; a straight line explains "
            f"{100 * fit.mean:.0f} % of the logarithm's variance",
            num_seeds=slope.num_seeds,
            verdict=verdict(slope, "below"),
        ),
    ]  # fmt: skip


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the gradient along a path with its spread, and the shares of lengths."""
    measured = [row for row in rows if "gradient" in row.series]

    def draw_gradients(axes: Any, look: Look) -> None:
        for row in measured:
            mean, spread = np.array(row.series["gradient"]), np.array(row.series["spread"])
            places = np.arange(len(mean))
            axes.semilogy(places, mean, "o-", ms=3, linewidth=1, color=look.main)
            axes.fill_between(
                places, np.maximum(mean - spread, mean / 10), mean + spread, color=look.main, alpha=0.15, linewidth=0
            )

    def draw_shares(axes: Any, look: Look) -> None:
        shares = _lengths(NETWORK).shares
        axes.plot(range(len(shares)), [100 * share for share in shares], "-", color=look.second, label="of all paths")
        means = [100 * statistics.mean(some) for some in zip(*(row.series["shares"] for row in measured), strict=True)]
        axes.plot(range(len(means)), means, "o-", ms=3, color=look.main, label="of the gradient, mean over the seeds")
        axes.legend(fontsize=8)

    return [
        Chart(
            name="paths-gradients",
            caption=f"{NETWORK}: gradient along one path at the first block's input, by the path's length, a line for "
            f"each seed; shaded: one standard deviation of {DRAWS} paths.",
            x="path length (blocks)",
            y="norm of an image's gradient",
            draw=draw_gradients,
        ),
        Chart(
            name="paths-shares",
            caption=f"{NETWORK}: lengths of all paths, and of those that carry the gradient.",
            x="path length (blocks)",
            y="share, %",
            draw=draw_shares,
        ),
    ] * bool(measured)


def _lengths(name: str) -> PathLengths:
    spec = variant(name).spec
    return path_lengths(topology(spec.architecture, spec.kept_blocks))


def _counted(source: str, says: str, figure: str, percent: float, holds: bool) -> Claim:
    found: Verdict = "agrees" if holds else "does not"
    return Claim(
        source=source, says=says, figure=figure, ours=f"{percent:.2f} %, counted exactly", num_seeds=0, verdict=found
    )


def _gap(rows: Sequence[Row]) -> Interval:
    shifted = [
        row.model_copy(update={"values": {"gap": row.values["mean_length"] - row.values["all_mean_length"]}})
        for row in rows
        if "mean_length" in row.values
    ]
    return mean_of(shifted, "gap")


def _span(rows: Sequence[Row]) -> str:
    spans = [f"{row.values['low']:.0f} to {row.values['high']:.0f}" for row in rows if "low" in row.values]
    return f"{' or '.join(dict.fromkeys(spans))} blocks" if spans else "no lengths yet"


EXPERIMENT = Experiment(
    name="paths",
    title="Paths",
    settings=(Setting(network=NETWORK, epochs=EPOCHS),),
    claims=claims,
    charts=charts,
    analyze=analyze,
    notes=f"Gradients of {NUM_IMAGES} held-out images; {DRAWS} paths of each length, fewer where there are fewer.",
    columns=(
        ("mean length of the gradient", "mean_length", 1.0, 1),
        ("from", "low", 1.0, 0),
        ("to", "high", 1.0, 0),
        ("of all paths, %", "share_of_paths", 100.0, 2),
    ),
)
