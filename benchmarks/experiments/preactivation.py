"""Pre-activation (He et al. 2016) and the shortcut (He et al. 2015), one at a time, at 56 layers.

The order of batch norm, ReLU and convolution differs between a ResNet and a pre-activation ResNet; so, in many
comparisons, does the shortcut where the shape changes. Here each changes alone: option A (every second pixel, channels
of zeros) and option B (a 1x1 convolution) in both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.experiments.experiment import HE_2015, HE_2016, Chart, Claim, Experiment, variant_rows
from benchmarks.experiments.pairing import paired, verdict
from benchmarks.experiments.rows import Row
from benchmarks.experiments.training import Setting

from resx.figures import Look
from resx.zoo.architectures import Architecture
from resx.zoo.depths import preresnet_cifar, resnet_cifar

EPOCHS = 8
_DEPTH = 56
_WITH_PROJECTION = " with projections"
ORIGINAL, FULL = f"resnet{_DEPTH}", f"preresnet{_DEPTH}"
NAMES = (ORIGINAL, FULL, ORIGINAL + _WITH_PROJECTION, FULL + _WITH_PROJECTION)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare the orders at one shortcut, and the shortcuts at one order, by held-out accuracy and by loss."""

    def compare(
        names: tuple[str, str], measure: Literal["accuracy", "loss"], source: str, says: str, figure: str
    ) -> Claim:
        first, second = names
        found = paired(variant_rows(rows, first), variant_rows(rows, second), lambda row: row.measure(measure))
        is_accuracy = measure == "accuracy"
        told = found.text(100, " points held-out") if is_accuracy else found.text(1, " of training loss", 3)
        return Claim(
            source=source,
            says=says,
            figure=figure,
            ours=f"{first} minus {second}: {told}",
            num_seeds=found.num_seeds,
            verdict=verdict(found, "above" if is_accuracy else "below"),
        )

    order, shortcut = f"{HE_2016}, table 2", f"{HE_2015}, table 3"
    order_figure = "resnet110: 6.37 % error in place of 6.61 %; bottlenecks, 164 layers: 5.46 % in place of 5.93 %"
    shortcut_figure = "ResNet-34, ImageNet: 24.52 % error (B) in place of 25.03 % (A)"
    return [
        compare((FULL, ORIGINAL), "accuracy", order, "The order alone: full pre-activation is better.", order_figure),
        compare(
            (FULL, ORIGINAL), "loss", f"{HE_2016}, section 4.2, figure 6", "It is easier to optimize.",
            "a figure only (training loss falls faster)",
        ),
        compare(
            (ORIGINAL + _WITH_PROJECTION, ORIGINAL), "accuracy", shortcut,
            "The shortcut alone: projections (B) are slightly better than zeros (A).", shortcut_figure,
        ),
        compare(
            (FULL + _WITH_PROJECTION, FULL), "accuracy", shortcut,
            "The same with pre-activation; the paper has the original order only.", shortcut_figure,
        ),
    ]  # fmt: skip


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw the held-out accuracy of every seed."""

    def draw(axes: Any, look: Look) -> None:
        for place, name in enumerate(NAMES):
            known = [100 * row.accuracy for row in variant_rows(rows, name) if row.accuracy is not None]
            axes.plot([place] * len(known), known, "o", color=look.second if name.startswith("pre") else look.main)
        axes.set_xticks(range(len(NAMES)), [name.replace(" with ", "\nwith ") for name in NAMES])

    return [
        Chart(
            name="preactivation",
            caption=f"Held-out accuracy after {EPOCHS} epochs of the digits, a dot for each seed.",
            x="network",
            y="held-out accuracy, %",
            draw=draw,
        )
    ]


def _architecture(name: str) -> Architecture:
    made = preresnet_cifar(_DEPTH, block="basic") if name.startswith("pre") else resnet_cifar(_DEPTH)
    return made.model_copy(update={"shortcut": "projection" if name.endswith(_WITH_PROJECTION) else "padding"})


EXPERIMENT = Experiment(
    name="preactivation",
    title="Pre-activation",
    settings=tuple(Setting(network=name, epochs=EPOCHS, architecture=_architecture(name)) for name in NAMES),
    claims=claims,
    charts=charts,
    notes="The papers compare at 110 layers and more.",
)
