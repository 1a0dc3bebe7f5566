"""How the papers trained their networks, by name.

Milestones are shares of the epochs, so that a shorter run keeps the schedule's form. Two deviations hold for all
recipes of papers: images are normalised per channel (He et al. 2015 subtract the mean image), and, unless `train` is
told to hold out a share of the training images, the test images are what `best` is chosen on.

    recipe                where it is not the paper
    he2015-cifar          63,960 steps at 50,000 images, for 64,000; the paper has 0.01 in the first 400 steps for 110
                          layers only, here in the first epoch (390) for all
    he2016-preact         the same numbers of steps
    huang2016-depth       shortcuts are the network's: `--set shortcut=pooling` for the paper's
    huang2016-depth-1202  the same
    xie2017-resnext       Nesterov momentum and the batch of 128 are those of the published code, which says that the
                          paper's own CIFAR figures are of 256 and pre-activated blocks
    he2015-imagenet       epochs and crops are fb.resnet.torch's (the paper has 600,000 steps, and crops at scales from
                          256 to 480); they are cut out of the image at the training size; no change of colors
    srivastava2015-highway  all biases at the same rate as weights (the authors' at twice), the classifier decays as the
                          rest does (the authors' ten times as much); contrast is not normalised
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pydantic

from resx.errors import UsageError, nearest
from resx.training.config import Recipe, SkippedBlocks, TrainingConfig

_LARGE_PX = 96
"""Images from here on are trained on as ImageNet's, smaller ones as CIFAR's."""
_HE_STEPS = 63_960
"""164 epochs of 390 steps; 64,000 in the paper, whose learning rate falls after 32,000 and 48,000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRecipe:
    """A recipe, where it is written, and the survival probability it is meant for."""

    recipe: Recipe
    source: str
    survival: float = 1.0
    """p_L where the user names none."""


def recipe_named(name: str) -> PublishedRecipe:
    """Return the recipe of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(f"recipe {name!r}{nearest(name, RECIPES)}: give one of {', '.join(RECIPES)}") from None


def default_recipe(data: str, image_size: int | None = None) -> str:
    """Return the name of the recipe that a data set is trained with if the user names none.

    Args:
        data: as `load_data` takes it.
        image_size: pixels each way; None for the data set's own.
    """
    if data in ("digits", "mnist5k"):
        return "digits"
    is_large = data.startswith("folder:") and (image_size is None or image_size >= _LARGE_PX)
    return "he2015-imagenet" if is_large else "he2015-cifar"


def configure(data: str, recipe: str, changes: Mapping[str, object]) -> TrainingConfig:
    """Return the configuration of a recipe on a data set, with some of its values replaced.

    Raises:
        UsageError: there is no such recipe, or a value is out of its range.
    """
    values = recipe_named(recipe).recipe.model_dump() | {"data": data, "recipe": recipe} | dict(changes)
    try:
        return TrainingConfig.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}={first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def _cifar(
    *,
    epochs: int,
    milestones: tuple[float, ...] = (0.5, 0.75),
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    nesterov: bool = True,
    tenth_epochs: int = 0,
    skipped_blocks: SkippedBlocks = "rest",
) -> Recipe:
    """What the CIFAR recipes share: 0.1, divided by ten twice; 4 pixels of padding and random crop; mirroring."""
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=weight_decay,
        skipped_blocks=skipped_blocks,
        schedule="step",
        milestones=milestones,
        warmup="tenth" if tenth_epochs else "none",
        warmup_epochs=tenth_epochs or 1,
        shift_px=4,
        padding="mean",
        flip=True,
    )


def _he_cifar() -> Recipe:
    milestones = (32_000 / _HE_STEPS, 48_000 / _HE_STEPS)
    return _cifar(epochs=164, milestones=milestones, nesterov=False, tenth_epochs=1)


RECIPES: dict[str, PublishedRecipe] = {
    "digits": PublishedRecipe(recipe=Recipe(), source="this project's, for its small built-in data set"),
    "he2015-cifar": PublishedRecipe(recipe=_he_cifar(), source="He et al. 2015, arXiv:1512.03385, section 4.2"),
    "he2015-imagenet": PublishedRecipe(
        recipe=Recipe(
            epochs=90,
            batch_size=256,
            learning_rate=0.1,
            nesterov=False,
            weight_decay=1e-4,
            schedule="step",
            milestones=(30 / 90, 60 / 90),
            warmup="none",
            shift_px=0,
            resized_crop=True,
            flip=True,
        ),
        source="He et al. 2015, arXiv:1512.03385, section 3.4, as fb.resnet.torch",
    ),
    "he2016-preact": PublishedRecipe(recipe=_he_cifar(), source="He et al. 2016, arXiv:1603.05027, appendix"),
    "huang2016-depth": PublishedRecipe(
        recipe=_cifar(epochs=500, skipped_blocks="move"),
        source="Huang et al. 2016, arXiv:1603.09382, section 4",
        survival=0.5,
    ),
    "huang2016-depth-1202": PublishedRecipe(
        recipe=_cifar(epochs=300, tenth_epochs=10, skipped_blocks="move"),
        source="Huang et al. 2016, arXiv:1603.09382, section 4, training a 1202-layer ResNet",
        survival=0.5,
    ),
    "huang2017-dense": PublishedRecipe(
        recipe=_cifar(epochs=300, batch_size=64), source="Huang et al. 2017, arXiv:1608.06993, section 4.2"
    ),
    "xie2017-resnext": PublishedRecipe(
        recipe=_cifar(epochs=300, weight_decay=5e-4), source="Xie et al. 2017, arXiv:1611.05431, section 5.3"
    ),
    "srivastava2015-highway": PublishedRecipe(
        recipe=Recipe(
            epochs=400,  # 200,000 steps of 100 of the 50,000 images
            batch_size=100,
            learning_rate=0.025,
            weight_decay=1e-3,
            decay_biases=False,
            schedule="step",
            milestones=(0.5, 0.75, 0.875),
            warmup="none",
            shift_px=8,
            padding="mean",
            flip=True,
        ),
        source="Srivastava et al. 2015, arXiv:1507.06228, as the authors' cifar10_solver.prototxt",
    ),
}
