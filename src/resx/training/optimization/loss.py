"""The loss of a recipe: cross-entropy, or binary cross-entropy of each class, with classes weighted or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from resx.training.config import Recipe

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps logits [N, classes] and targets (INT64 [N], or shares FP32 [N, classes]) to a scalar."""

_LEAST_SHARE = 0.2
"""From which a class of a mixed image counts as right (Wightman et al. 2021: every class that was mixed in)."""


def balanced_weights(targets: npt.NDArray[np.int64], num_classes: int) -> Tensor:
    """Return N / (classes x images of the class) for each class, FP32 [classes]: their mean over the images is 1."""
    counts = np.bincount(targets, minlength=num_classes).clip(min=1)
    return torch.from_numpy((len(targets) / (num_classes * counts)).astype(np.float32))


def make_loss(recipe: Recipe, targets: npt.NDArray[np.int64], num_classes: int, device: torch.device) -> Loss:
    """Return the loss over a batch.

    Args:
        recipe: which loss.
        targets: of all training images, [N], which class weights are counted from.
        num_classes: of the network.
        device: of the logits.
    """
    is_balanced = recipe.class_weights == "balanced"
    weights = balanced_weights(targets, num_classes).to(device) if is_balanced else None
    if recipe.loss == "binary":
        return lambda logits, right: _binary(logits, right, recipe.label_smoothing, weights)
    if weights is None:
        return lambda logits, right: F.cross_entropy(logits, right, label_smoothing=recipe.label_smoothing)

    def weighted(logits: Tensor, right: Tensor) -> Tensor:
        # The mean over the images, not over their weights: so a batch's parts in several processes add up.
        return F.cross_entropy(
            logits, right, weight=weights, reduction="none", label_smoothing=recipe.label_smoothing
        ).mean()

    return weighted


def _binary(logits: Tensor, right: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    num_classes = logits.shape[1]
    shares = F.one_hot(right, num_classes).to(logits.dtype) if right.ndim == 1 else (right > _LEAST_SHARE)
    shares = shares.to(torch.float32) * (1 - smoothing) + smoothing / num_classes
    return F.binary_cross_entropy_with_logits(logits.float(), shares, weight=weights)
