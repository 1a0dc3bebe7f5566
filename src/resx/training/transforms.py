"""Augmentation by torchvision.transforms.v2: RandAugment, TrivialAugment, random erasing, mixup and cutmix.

    image     UINT8 [3, H, W]      RandAugment or TrivialAugment, before normalisation
    image     FP32 [3, H, W]       random erasing, after it: a rectangle gets zeros, the mean color
    batch     FP32 [N, 3, H, W]    mixup or cutmix; the targets become shares of classes [N, classes]

torchvision draws from PyTorch's global generator, which the dropped blocks are drawn from too. So everything here runs
between two steps, with seeds of its own for each image and each step, and puts the generator back: what is drawn
depends on the image's place in the epoch alone. Several processes mix within their part of the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resx.training.config import Recipe

Transform: TypeAlias = Callable[..., Any]

_ERASING = 1
"""Added to an image's seed for its second transform."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transforms:
    """What a recipe does to a batch on its way into the network; None is nothing."""

    image: Transform | None = None
    erase: Transform | None = None
    mix: Transform | None = None

    def change_images(self, images_NCHW: Tensor, seeds: npt.NDArray[np.int64]) -> Tensor:
        """Return UINT8 images [N, 3, H, W], each changed as its seed [N] says."""
        return _each(self.image, images_NCHW, seeds)

    def finish(
        self, images_NCHW: Tensor, targets: Tensor, seeds: npt.NDArray[np.int64], mix_seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return normalised images and classes INT64 [N], erased and mixed; mixed targets are FP32 [N, classes]."""
        images_NCHW = _each(self.erase, images_NCHW, seeds + _ERASING)
        if self.mix is None:
            return images_NCHW, targets
        with _own_draws():
            torch.default_generator.manual_seed(mix_seed)
            mixed, shares = self.mix(images_NCHW, targets)
        return mixed, shares


def draws_seeds(recipe: Recipe) -> bool:
    """Say whether a recipe has any of these transforms."""
    return recipe.augment != "none" or bool(recipe.random_erasing or recipe.mixup or recipe.cutmix)


def make_transforms(recipe: Recipe, num_classes: int) -> Transforms:
    """Return what a recipe does to a batch, for targets of so many classes."""
    if not draws_seeds(recipe):
        return Transforms()
    from torchvision.transforms import v2

    image: Transform | None = None
    if recipe.augment != "none":
        bilinear = v2.InterpolationMode.BILINEAR
        image = (
            v2.RandAugment(magnitude=recipe.magnitude, interpolation=bilinear)
            if recipe.augment == "randaugment"
            else v2.TrivialAugmentWide(interpolation=bilinear)
        )
    mixes = [v2.MixUp(alpha=recipe.mixup, num_classes=num_classes)] if recipe.mixup else []
    mixes += [v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes)] if recipe.cutmix else []
    return Transforms(
        image=image,
        erase=v2.RandomErasing(p=recipe.random_erasing, value=0) if recipe.random_erasing else None,
        mix=v2.RandomChoice(mixes) if len(mixes) > 1 else next(iter(mixes), None),
    )


def _each(transform: Transform | None, images_NCHW: Tensor, seeds: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
    if transform is None:
        return images_NCHW
    changed = []
    with _own_draws():
        for image, seed in zip(images_NCHW, seeds, strict=True):
            torch.default_generator.manual_seed(int(seed))
            changed.append(transform(image))
    return torch.stack(changed)


@contextlib.contextmanager
def _own_draws() -> Iterator[None]:
    """Let draws change nothing of what the global generator gives afterwards."""
    with torch.random.fork_rng(devices=[]):
        yield
