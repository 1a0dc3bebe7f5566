"""Stochastic depth (Huang et al. 2016) against constant depth: accuracy, with noisy labels too, and time.

Where a block is skipped, forward and backward pass save it, so a step is expected to take one minus the share of the
blocks that are skipped on average: 1 - mean(1 - p_l), (3 L - 1) / 4 L for p_L = 0.5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.experiments.experiment import HUANG_2016, Chart, Claim, Experiment
from benchmarks.experiments.pairing import Interval, paired, ratio, verdict
from benchmarks.experiments.rows import Row
from benchmarks.experiments.training import Setting

from resx.figures import Look
from resx.zoo.catalog import variant
from resx.zoo.spec import survival_probabilities

NETWORKS, DATA, EPOCHS = ("resnet56", "resnet110"), ("digits", "mnist5k"), (8, 20, 40)
P_L, NOISE, NOISY_EPOCHS = 0.5, 0.2, 20
_DROPPED = f", p_L = {P_L:g}"


def settings() -> Iterator[Setting]:
    """Yield the cheapest first, so that a run that is interrupted has whole comparisons."""
    for epochs, noise, data, network in itertools.product(EPOCHS, (0.0, NOISE), DATA, NETWORKS):
        if noise and epochs != NOISY_EPOCHS:
            continue
        for survival in (1.0, P_L):
            yield Setting(network=network, epochs=epochs, survival=survival, data=data, noise=noise)


def num_seeds(setting: Setting) -> int:
    """Return five where one more seed costs little, or where three left a difference to decide; otherwise three."""
    return 5 if setting.epochs == min(EPOCHS) or (setting.data, setting.epochs) == ("mnist5k", 20) else 3


def expected_time(network: str) -> float:
    """Return the share of the blocks that run in a step, on average."""
    probabilities = survival_probabilities(variant(network).spec.architecture.num_blocks, P_L)
    return sum(probabilities) / len(probabilities)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare accuracy wherever both were trained, and time once for each network."""
    found = []
    for (network, data, epochs), constant, dropped in _pairs(rows):
        gain = paired(dropped, constant, lambda row: row.measure("accuracy"))
        noisy = "wrong" in data
        found.append(
            Claim(
                source=f"{HUANG_2016}, {'section 5' if noisy else 'table 1'}",
                says="It regularizes; noisy labels are this project's test of that."
                if noisy
                else "It lowers the test error.",
                figure="-" if noisy else "resnet110, CIFAR-10: 5.23 % error in place of 6.41 %",
                ours=f"{network}, {data}, {epochs} epochs: {gain.text(100, ' points held-out')}",
                num_seeds=gain.num_seeds,
                verdict=verdict(gain, "above"),
            )
        )
    return [*found, *_times(rows)]


def _times(rows: Sequence[Row]) -> Iterator[Claim]:
    for network in NETWORKS:
        some = [row for row in rows if row.network.startswith(network)]
        took = ratio(*_split(some, pooled=True), lambda row: row.measure("seconds"))
        if took.num_seeds:
            yield Claim(
                source=f"{HUANG_2016}, table 2",
                says="It saves training time, about a quarter.",
                figure="resnet110, CIFAR-10: 15 h 7 min in place of 20 h 42 min, 0.73",
                ours=f"{network}: {took.text(1, ' of the processor time', signed=False)}, "
                f"{expected_time(network):.2f} expected",
                num_seeds=took.num_seeds,
                verdict=verdict(took, "below", bound=1.0),
            )


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str, int], list[Row], list[Row]]]:
    """Yield (network, data, epochs) with the rows of constant and of stochastic depth, where there are both."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.network.removesuffix(_DROPPED), row.data, row.epochs), []).append(row)
    for key, group in sorted(groups.items(), key=lambda one: (one[0][2], one[0][1], -len(one[0][0]), one[0][0])):
        dropped, constant = _split(group)
        if dropped and constant:
            yield key, constant, dropped


def _split(rows: Sequence[Row], *, pooled: bool = False) -> tuple[list[Row], list[Row]]:
    """Return the rows of stochastic and those of constant depth; `pooled` sums a seed's seconds over what both have."""
    parts = ([row for row in rows if row.network.endswith(_DROPPED)], [row for row in rows if "p_L" not in row.network])
    if not pooled:
        return parts
    common = {(row.data, row.epochs, row.seed) for row in parts[0] if not row.diverged} & {
        (row.data, row.epochs, row.seed) for row in parts[1] if not row.diverged
    }
    dropped, constant = ([row for row in part if (row.data, row.epochs, row.seed) in common] for part in parts)
    return _summed(dropped), _summed(constant)


def _summed(rows: Sequence[Row]) -> list[Row]:
    seeds = sorted({row.seed for row in rows})
    return [
        next(row for row in rows if row.seed == seed).model_copy(
            update={"seconds": sum(row.seconds for row in rows if row.seed == seed)}
        )
        for seed in seeds
    ]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the difference in accuracy, with its interval, for everything that was compared."""
    compared = [
        (f"{network}, {epochs} epochs\n{data}", paired(dropped, constant, lambda row: row.measure("accuracy")))
        for (network, data, epochs), constant, dropped in _pairs(rows)
    ]

    def draw(axes: Any, look: Look) -> None:
        for place, (_, gain) in enumerate(compared):
            _draw_interval(axes, place, gain, look)
        axes.axvline(0, color=look.second, linewidth=1)
        axes.set_yticks(range(len(compared)), [title for title, _ in compared], fontsize=7)
        axes.invert_yaxis()

    return [
        Chart(
            name="stochastic-depth",
            caption="Held-out accuracy of stochastic depth minus that of constant depth, with the interval over seeds.",
            x="points",
            y="",
            draw=draw,
        )
    ] * bool(compared)


def _draw_interval(axes: Any, place: int, gain: Interval, look: Look) -> None:
    if gain.num_seeds > 1:
        axes.plot([100 * gain.low, 100 * gain.high], [place, place], color=look.main)
    if gain.num_seeds:
        axes.plot([100 * gain.mean], [place], "o", color=look.main)


EXPERIMENT = Experiment(
    name="stochastic-depth",
    title="Stochastic depth",
    settings=tuple(settings()),
    claims=claims,
    charts=charts,
    num_seeds=num_seeds,
    notes="The paper trains for 500 epochs of 45,000 images, 176,000 steps of 128; here 8 to 40 epochs are 256 to "
    "1,840 steps of 32, so a network whose blocks are often missing may not have learned much yet. The "
    "training loss of stochastic depth is that of networks with blocks missing; its training error is that of "
    "the whole network. Times are of the processor, over all rows of a network that both variants have; they "
    "include the held-out accuracy after each epoch, for which every block runs. `python "
    "benchmarks/stochastic_depth_epoch.py` measures time more exactly: it takes steps of both in turn. The longest "
    "trainings have three seeds: five of all would take longer than 90 minutes on two cores.",
)
