"""How the papers trained their networks on CIFAR, by name.

Two deviations hold for all: images are normalised per channel (He et al. 2015 subtract the mean image),
and the networks train on all training images while the test images are the held-out part (He et al. 2015
hold out 5,000 training images for validation). Milestones are shares of the epochs, as the papers'
numbers are: half and three quarters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pydantic

from resx.errors import UsageError, nearest
from resx.training.config import Recipe, TrainingConfig


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


def default_recipe(data: str) -> str:
    """Return the name of the recipe that a data set is trained with if the user names none."""
    return "digits" if data == "digits" else "he2015-cifar"


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
    *, epochs: int, weight_decay: float = 1e-4, batch_size: int = 128, nesterov: bool = True, warm: bool = False
) -> Recipe:
    """What the CIFAR recipes share: 0.1, divided by ten twice; 4 pixels of padding and random crop; mirroring."""
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=weight_decay,
        schedule="steps",
        milestones=(0.5, 0.75),
        warmup="tenth" if warm else "none",
        shift_px=4,
        flip=True,
    )


RECIPES: dict[str, PublishedRecipe] = {
    "digits": PublishedRecipe(recipe=Recipe(), source="this project's, for its small built-in data set"),
    # 64,000 steps of 128 of the 45,000 images; 0.01 for the first 400 steps, there for 110 layers only.
    "he2015-cifar": PublishedRecipe(
        recipe=_cifar(epochs=182, nesterov=False, warm=True),
        source="He et al. 2015, arXiv:1512.03385, section 4.2",
    ),
    # 64,000 steps of 128 of the 50,000 images; 0.01 for the first 400 steps, about an epoch.
    "he2016-preact": PublishedRecipe(
        recipe=_cifar(epochs=164, nesterov=False, warm=True),
        source="He et al. 2016, arXiv:1603.05027, appendix",
    ),
    "huang2016-depth": PublishedRecipe(
        recipe=_cifar(epochs=500), source="Huang et al. 2016, arXiv:1603.09382, section 4", survival=0.5
    ),
    "huang2017-dense": PublishedRecipe(
        recipe=_cifar(epochs=300, batch_size=64), source="Huang et al. 2017, arXiv:1608.06993, section 4.2"
    ),
    # Nesterov momentum and the batch of 128 are the published code's (github.com/facebookresearch/ResNeXt),
    # which says that the arXiv paper's own CIFAR figures are of 256 and pre-activated blocks.
    "xie2017-resnext": PublishedRecipe(
        recipe=_cifar(epochs=300, weight_decay=5e-4), source="Xie et al. 2017, arXiv:1611.05431, section 5.3"
    ),
}
