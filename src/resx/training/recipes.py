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
    tv-v2                 images have one size in training and evaluation (theirs: 176 and 224 pixels); no repeated
                          augmentation; the moving average takes a step in each step, not in every 32nd
    timm-a3               images have one size (theirs: 160 and 224 pixels); RandAugment is torchvision's, without noise
                          in the magnitude
    srivastava2015-highway  all biases at the same rate as weights (the authors' at twice), the classifier decays as the
                          rest does (the authors' ten times as much); contrast is not normalised
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pydantic

from resx.errors import UsageError, nearest
from resx.training.config import Recipe, SkippedBlocks, TrainingConfig

_HALF_AND_THREE_QUARTERS = (0.5, 0.75)
"""Milestones where neither the recipe nor the user has any."""
_TORCHVISION_URL = "https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/"
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


def default_recipe(data: str, weights: str = "none") -> str:
    """Return the name of the recipe that a data set is trained with if the user names none.

    Args:
        data: as `load_data` takes it.
        weights: what training starts from; `none` is random.
    """
    if data in ("digits", "mnist5k"):
        return "digits"
    if data.startswith("folder:"):
        return "small-data" if weights == "none" else "fine-tuning"
    return "he2015-cifar"


def configure(data: str, recipe: str, changes: Mapping[str, object]) -> TrainingConfig:
    """Return the configuration of a recipe on a data set, with some of its values replaced.

    Raises:
        UsageError: there is no such recipe, or a value is out of its range.
    """
    own = recipe_named(recipe).recipe
    values = own.model_dump() | {"data": data, "recipe": recipe} | dict(changes)
    if values["schedule"] == "step" and not values["milestones"]:
        values["milestones"] = _HALF_AND_THREE_QUARTERS
    if "epochs" in changes and "warmup_epochs" not in changes and isinstance(values["epochs"], int):
        values["warmup_epochs"] = max(1, min(own.warmup_epochs, values["epochs"] // 2))
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


def _torchvision_v2() -> Recipe:
    """torchvision's "new recipe" (the blog post of 2021-11-18 at _TORCHVISION_URL), for a batch of 8 x 128.

    ResNet-50: 80.858 % of ImageNet's validation images (`ResNet50_Weights.IMAGENET1K_V2`; 76.130 % with V1). Its moving
    average moves by 8 x 128 x 32 / 600 x (1 - 0.99998) in every 32nd step, which is 0.999966 per step.
    """
    return Recipe(
        epochs=600,
        batch_size=1024,
        learning_rate=0.5,
        nesterov=False,
        weight_decay=2e-5,
        decay_norms=False,
        warmup_epochs=5,
        shift_px=0,
        resized_crop=True,
        flip=True,
        augment="trivialaugment",
        random_erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
        label_smoothing=0.1,
        ema=0.999966,
    )


def _timm_a3() -> Recipe:
    """The 100-epoch procedure of "ResNet strikes back" (Wightman et al. 2021, arXiv:2110.00476), table 2, column A3.

    ResNet-50: 78.1 % of ImageNet's validation images at 224 pixels (table 1). LAMB, binary cross-entropy, RandAugment
    6 of 10, so 18 of torchvision's 30.
    """
    return Recipe(
        epochs=100,
        batch_size=2048,
        learning_rate=8e-3,
        optimizer="lamb",
        weight_decay=0.02,
        decay_biases=False,
        decay_norms=False,
        warmup_epochs=5,
        shift_px=0,
        resized_crop=True,
        flip=True,
        augment="randaugment",
        magnitude=18,
        mixup=0.1,
        cutmix=1.0,
        loss="binary",
    )


def _small_data() -> Recipe:
    """Some hundred to some ten thousand images, from random weights."""
    return Recipe(
        epochs=60,
        batch_size=32,
        learning_rate=0.05,
        warmup_epochs=3,
        shift_px=0,
        resized_crop=True,
        flip=True,
        augment="trivialaugment",
        label_smoothing=0.1,
    )


def _fine_tuning() -> Recipe:
    """The same from trained weights: a fifth of the rate, fewer epochs, and nothing that makes few images harder."""
    return Recipe(
        epochs=15,
        batch_size=32,
        learning_rate=0.01,
        weight_decay=1e-4,
        shift_px=0,
        resized_crop=True,
        flip=True,
    )


RECIPES: dict[str, PublishedRecipe] = {
    "digits": PublishedRecipe(recipe=Recipe(), source="resx, for its small built-in data set"),
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
    "tv-v2": PublishedRecipe(recipe=_torchvision_v2(), source=f"torchvision's IMAGENET1K_V2, {_TORCHVISION_URL}"),
    "timm-a3": PublishedRecipe(recipe=_timm_a3(), source="Wightman et al. 2021, arXiv:2110.00476, table 2, A3"),
    "small-data": PublishedRecipe(recipe=_small_data(), source="resx, for a folder of images"),
    "fine-tuning": PublishedRecipe(recipe=_fine_tuning(), source="resx, for a folder of images and trained weights"),
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
