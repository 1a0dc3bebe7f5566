"""Degradation (He et al. 2015, section 4.2): a deeper plain network has the higher training error, a deeper ResNet not.

Judged by training error, on the training images as they are: what degrades is optimization, not generalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.experiments.experiment import HE_2015, Chart, Claim, Experiment, variant_rows
from benchmarks.experiments.pairing import paired, verdict
from benchmarks.experiments.rows import Row
from benchmarks.experiments.training import Setting

from resx.figures import Look

NAMES = ("plain20", "plain56", "resnet20", "resnet56")
EPOCHS = 8


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare depths in each family, and families at each depth, by training error."""

    def compare(deep: str, shallow: str, expected: Literal["above", "below"], says: str, figure: str) -> Claim:
        found = paired(variant_rows(rows, deep), variant_rows(rows, shallow), lambda row: row.measure("training_error"))
        return Claim(
            source=f"{HE_2015}, section 4.2, figure 6",
            says=says,
            figure=figure,
            ours=f"{deep} minus {shallow}: {found.text(100, ' points of training error')}",
            num_seeds=found.num_seeds,
            verdict=verdict(found, expected),
        )

    return [
        compare(
            "plain56", "plain20", "above", "The deeper plain network has the higher training error.",
            "a figure only; ImageNet, table 2: plain34 28.54 % error, plain18 27.94 %",
        ),
        compare(
            "resnet56", "resnet20", "below", "The deeper ResNet has the lower training error.",
            "a figure only; test error, table 6: resnet56 6.97 %, resnet20 8.75 %",
        ),
        compare(
            "resnet56", "plain56", "below", "At 56 layers the ResNet has the lower training error.",
            "a figure only; plain 34 and ResNet-34 on ImageNet, table 2: 28.54 % and 25.03 %",
        ),
    ]  # fmt: skip


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the training error of every seed."""

    def draw(axes: Any, look: Look) -> None:
        for place, name in enumerate(NAMES):
            errors = [100 * row.training_error for row in variant_rows(rows, name) if row.training_error is not None]
            axes.plot([place] * len(errors), errors, "o", color=look.main if "resnet" in name else look.second)
        axes.set_xticks(range(len(NAMES)), NAMES)
        axes.set_ylim(bottom=0)

    return [
        Chart(
            name="degradation",
            caption=f"Training error after {EPOCHS} epochs of the digits, a dot for each seed.",
            x="network",
            y="training error, %",
            draw=draw,
        )
    ]


EXPERIMENT = Experiment(
    name="degradation",
    title="Degradation",
    settings=tuple(Setting(network=name, epochs=EPOCHS) for name in NAMES),
    claims=claims,
    charts=charts,
    notes="Plain and residual networks of one depth have the same convolutions.",
)
