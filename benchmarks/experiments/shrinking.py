"""Shrinking: blocks that `resx shrink` chooses by measured lesions, against what it has to beat.

    random      as many random blocks of the same network, the mean of five choices
    magnitude   those whose branch ends in the smallest batch norm scales, mean of absolute values
    retrained   a network of that depth, trained from the beginning for as many epochs

All but the retrained one have their batch norms fitted to training images; none is trained on.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmarks.experiments.experiment import (
    LIU_2018,
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
from torch import nn

from resx.analysis.network_steps import steps_of
from resx.analysis.shrink.search import SearchOptions, drop_block, measure, recalibrate, sizes
from resx.export.graph.batchnorm_fusion import fuse
from resx.figures import Look
from resx.zoo.depths import resnet_cifar

WHOLE, SHALLOW = "resnet56", "resnet38"
EPOCHS = 20
DROP = 9
"""Of 27 blocks: what is left has resnet38's depth."""
RANDOM_CHOICES = 5
WAYS = ("measured", "magnitude", "random")


def analyze(trained: Trained, seed: int) -> Measured:
    """Take `DROP` blocks out in each of the ways; nothing of a network that has no more."""
    if trained.spec.name != WHOLE:
        return Measured(values={}, series={})
    options = SearchOptions(seed=seed, num_images=128)
    found = sizes(trained.model, trained.spec, trained.data, options, prepare)
    searched = [next(found).member.accuracy for _ in range(DROP)]
    removable = trained.spec.architecture.removable_blocks
    random = np.random.default_rng([seed, 21])
    at_random = [
        _accuracy_without(trained, random.choice(removable, DROP, replace=False).tolist(), seed)
        for _ in range(RANDOM_CHOICES)
    ]
    return Measured(
        values={
            "measured": searched[-1],
            "magnitude": _accuracy_without(trained, smallest_blocks(trained)[:DROP], seed),
            "random": statistics.mean(at_random),
        },
        series={"searched": tuple(searched), "random": tuple(at_random)},
    )


def prepare(part: nn.Module) -> nn.Module:
    """Return the form of a step that the search evaluates."""
    return fuse(part, target="cpu")


def smallest_blocks(trained: Trained) -> list[int]:
    """Return the removable blocks, the smallest mean absolute scale of the branch's last batch norm first."""
    removable = set(trained.spec.architecture.removable_blocks)
    scales = {}
    for step in steps_of(trained.model, trained.spec):
        if step.block in removable:
            norms = [module for module in step.whole.modules() if isinstance(module, nn.BatchNorm2d)]
            scales[step.block] = float(norms[-1].weight.detach().abs().mean())
    return sorted(scales, key=scales.__getitem__)


def _accuracy_without(trained: Trained, blocks: Sequence[int], seed: int) -> float:
    model, spec = trained.model, trained.spec
    for block in blocks:
        model, spec = drop_block(model, spec, block)
    recalibrate(model, spec, trained.data.train, num_images=SearchOptions().num_recalibration_images, seed=seed)
    return measure(model, spec, trained.data, prepare).member.accuracy


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare measured choice with the other ways, and with the network of that depth trained from the beginning."""
    whole = variant_rows(rows, WHOLE)
    found = []
    for other in ("random", "magnitude"):
        renamed = [
            row.model_copy(update={"values": {"measured": row.values[other]}}) for row in whole if other in row.values
        ]
        gain = paired(whole, renamed, lambda row: row.measure("measured"))
        found.append(
            Claim(
                source="this project, `resx shrink`",
                says=f"Measured choice beats {other} choice.",
                figure="-",
                ours=f"without {DROP} of 27 blocks: {gain.text(100, ' points held-out')}",
                num_seeds=gain.num_seeds,
                verdict=verdict(gain, "above"),
            )
        )
    renamed = [
        row.model_copy(update={"values": {"measured": row.accuracy}})
        for row in variant_rows(rows, SHALLOW)
        if row.accuracy is not None
    ]
    against = paired(renamed, whole, lambda row: row.measure("measured"))
    found.append(
        Claim(
            source=f"{LIU_2018}, section 4",
            says="A small network trained from the beginning is at least as good as one that was pruned.",
            figure="tables of CIFAR and ImageNet networks",
            ours=f"{SHALLOW} minus {WHOLE} without {DROP} blocks: {against.text(100, ' points held-out')}",
            num_seeds=against.num_seeds,
            verdict=verdict(against, "above"),
        )
    )
    return found


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the accuracy of each way, a dot for each seed."""
    whole = variant_rows(rows, WHOLE)

    def draw(axes: Any, look: Look) -> None:
        titles = [f"{WHOLE}\nwhole", *(f"without {DROP},\n{way}" for way in WAYS), f"{SHALLOW},\nretrained"]
        some: list[list[float | None]] = [[row.accuracy for row in whole]]
        some += [[row.values.get(way) for row in whole] for way in WAYS]
        some.append([row.accuracy for row in variant_rows(rows, SHALLOW)])
        for place, numbers in enumerate(some):
            known = [100 * number for number in numbers if number is not None]
            axes.plot([place] * len(known), known, "o", color=look.second if way_is_trained(place) else look.main)
        axes.set_xticks(range(len(titles)), titles)

    return [
        Chart(
            name="shrinking",
            caption=f"Held-out accuracy with {DROP} of 27 blocks removed in three ways, a dot for each seed.",
            x="",
            y="held-out accuracy, %",
            draw=draw,
        )
    ] * bool(mean_of(whole, "measured").num_seeds)


def way_is_trained(place: int) -> bool:
    """Say whether a place of the chart is a network as it was trained."""
    return place in (0, len(WAYS) + 1)


EXPERIMENT = Experiment(
    name="shrinking",
    title="Shrinking",
    settings=(
        Setting(network=WHOLE, epochs=EPOCHS),
        Setting(network=SHALLOW, epochs=EPOCHS, architecture=resnet_cifar(38)),
    ),
    claims=claims,
    charts=charts,
    analyze=analyze,
    notes="Blocks are chosen on training images. The shallow network is trained for as many epochs as the whole one, "
    "in about two thirds of the time.",
    columns=tuple((f"without {DROP}, {way}, %", way, 100.0, 2) for way in WAYS),
)
