"""What a run starts from and how it stays near it, how its images are changed, and which of its epochs is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.validation import choose, finite

_start_option = partial(typer.Option, rich_help_panel="Fine-tuning")
_augmentation_option = partial(typer.Option, rich_help_panel="Augmentation")
_choice_option = partial(typer.Option, rich_help_panel="Best epoch")

StartingFrom: TypeAlias = Annotated[
    str | None,
    _start_option(
        "--weights",
        metavar="WORD|RUN|FILE",
        help="Weights to start from: none (random), imagenet, a run's folder, or a file. Other classes get a new last "
        "layer. Default: none.",
    ),
]
StartingEntry: TypeAlias = Annotated[
    str,
    _start_option(
        "--weights-entry",
        metavar="NAME",
        help="For --weights FILE: which of its networks. Default: the only one, or the EMA.",
    ),
]
Freeze: TypeAlias = Annotated[
    str | None,
    _start_option(
        metavar="STAGE",
        help="Do not train the stages up to this one: stem, layer1, ...; all: all but the last layer. Their batch "
        "norms stay as they are too.",
    ),
]
LayerDecay: TypeAlias = Annotated[
    float | None,
    _start_option(
        min=0.01,
        max=1,
        callback=finite,
        metavar="F",
        help="Learning rate of each stage as a share of the next stage's. Default: 1, the same rate everywhere.",
    ),
]
Augment: TypeAlias = Annotated[
    str | None,
    _augmentation_option(metavar="[randaugment|trivialaugment|none]", help="Random changes. Default: the recipe's."),
]
RandomErasing: TypeAlias = Annotated[
    float | None,
    _augmentation_option(
        min=0, max=1, callback=finite, metavar="P", help="Probability to erase a rectangle of an image."
    ),
]
Mixup: TypeAlias = Annotated[
    float | None,
    _augmentation_option(
        min=0, max=100, callback=finite, metavar="A", help="Mix pairs of images, by a share from Beta(A, A) (0: off)."
    ),
]
Cutmix: TypeAlias = Annotated[
    float | None,
    _augmentation_option(
        min=0,
        max=100,
        callback=finite,
        metavar="A",
        help="Paste a part of another image, with an area from Beta(A, A) (0: off). With --mixup: one of them a step.",
    ),
]
Ema: TypeAlias = Annotated[
    float | None,
    _choice_option(
        min=0,
        max=0.999999,
        callback=finite,
        metavar="DECAY",
        help="Evaluate and publish the moving average of the weights, with this decay a step (0: off).",
    ),
]
ClassWeighting: TypeAlias = Annotated[
    str | None,
    _choice_option(
        "--class-weights", metavar="[balanced|none]", help="balanced: all classes count the same in the loss."
    ),
]
BestByName: TypeAlias = Annotated[
    str | None,
    _choice_option(
        "--best-by",
        metavar="[accuracy|loss|balanced-accuracy]",
        help="What the best epoch is chosen by, on the validation images or the held-out ones. Default: accuracy.",
    ),
]
Patience: TypeAlias = Annotated[
    int | None,
    _choice_option(min=0, metavar="N", help="Stop after N epochs without a better one (0: never). Default: 0."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartOptions:
    """What a run starts from, and how near it stays; None where the recipe says it."""

    weights: StartingFrom = None
    weights_entry: StartingEntry = ""
    freeze: Freeze = None
    layer_decay: LayerDecay = None

    def changes(self) -> dict[str, object]:
        """Return what differs from the recipe."""
        return _given(freeze=self.freeze, layer_decay=self.layer_decay)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationOptions:
    """How training images are changed; None where the recipe says it."""

    augment: Augment = None
    random_erasing: RandomErasing = None
    mixup: Mixup = None
    cutmix: Cutmix = None

    def changes(self) -> dict[str, object]:
        """Return what differs from the recipe."""
        from resx.training.config import AUGMENTATIONS

        augment = None if self.augment is None else choose("--augment", self.augment, AUGMENTATIONS)
        return _given(augment=augment, random_erasing=self.random_erasing, mixup=self.mixup, cutmix=self.cutmix)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceOptions:
    """What is published of a run, and what it is judged by; None where the recipe says it."""

    ema: Ema = None
    class_weights: ClassWeighting = None
    best_by: BestByName = None
    patience: Patience = None

    def changes(self) -> dict[str, object]:
        """Return what differs from the recipe."""
        from resx.training.config import BEST_BY, CLASS_WEIGHTS

        weights = None if self.class_weights is None else choose("--class-weights", self.class_weights, CLASS_WEIGHTS)
        best_by = None if self.best_by is None else choose("--best-by", self.best_by, BEST_BY)
        return _given(ema=self.ema, class_weights=weights, best_by=best_by, patience=self.patience)


def _given(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
