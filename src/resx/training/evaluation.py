"""What a network says of images: normalisation, logits in batches, accuracy. Always FP32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.data.dataset import Images, Split
from resx.zoo.spec import ModelSpec

_BATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How a network does on a split's images; those of several parts add up."""

    num_right: npt.NDArray[np.float64]
    """[classes]: images whose class is predicted right."""
    num_images: npt.NDArray[np.float64]
    """[classes]."""
    loss: float
    """Cross-entropy, summed over the images."""

    @property
    def accuracy(self) -> float:
        """The share of images whose class is predicted right."""
        return float(self.num_right.sum() / self.num_images.sum())

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the classes that have images of the share of their images that is right."""
        seen = self.num_images > 0
        return float((self.num_right[seen] / self.num_images[seen]).mean())

    @property
    def mean_loss(self) -> float:
        """Cross-entropy, the mean over the images."""
        return self.loss / float(self.num_images.sum())


def accuracy(model: nn.Module, spec: ModelSpec, split: Split) -> float:
    """Return the share of images whose class is predicted right; the model is left in evaluation mode."""
    return score(model, spec, split, range(len(split))).accuracy


def score(model: nn.Module, spec: ModelSpec, split: Split, part: range) -> Scores:
    """Return how a network does on a split's images from `part.start` to `part.stop`."""
    num_right, num_images = np.zeros(spec.classes), np.zeros(spec.classes)
    loss = 0.0
    for start in range(part.start, part.stop, _BATCH_SIZE):
        chosen = slice(start, min(start + _BATCH_SIZE, part.stop))
        found, targets = logits(model, spec, split.images[chosen]), split.targets[chosen]
        right = found.argmax(1).numpy() == targets
        num_images += np.bincount(targets, minlength=spec.classes)
        num_right += np.bincount(targets[right], minlength=spec.classes)
        loss += float(F.cross_entropy(found, torch.from_numpy(targets), reduction="sum"))
    return Scores(num_right=num_right, num_images=num_images, loss=loss)


def logits(model: nn.Module, spec: ModelSpec, images: Images, batch_size: int = _BATCH_SIZE) -> Tensor:
    """Return the model's logits [N, classes] for UINT8 images, evaluated in batches, in fp32 on its device."""
    model.eval()
    with torch.inference_mode():
        batches = [
            model(normalize(images[start : start + batch_size], spec, device_of(model))).cpu()
            for start in range(0, len(images), batch_size)
        ]
    return torch.cat(batches)


def normalize(images_NCHW: npt.NDArray[np.uint8], spec: ModelSpec, device: torch.device) -> Tensor:
    """Return (image / 255 - mean) / std as FP32 [N, 3, H, W] on the device."""
    return normaliser(spec, device)(torch.from_numpy(images_NCHW).to(device))


def normaliser(spec: ModelSpec, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what normalises UINT8 images [N, 3, H, W] on the device; its constants are copied there once."""
    mean = torch.tensor(spec.mean, device=device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=device).view(3, 1, 1)
    return lambda images_NCHW: images_NCHW.to(torch.float32).div_(255).sub_(mean).div_(std)


def device_of(model: nn.Module) -> torch.device:
    """Return the device that holds the model's parameters."""
    return next(model.parameters()).device
