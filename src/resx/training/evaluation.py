"""What a network says of images: normalisation, logits in batches, accuracy. Always FP32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resx.data.dataset import Images, Split
from resx.zoo.spec import ModelSpec

_BATCH_SIZE = 128


def accuracy(model: nn.Module, spec: ModelSpec, split: Split) -> float:
    """Return the share of images whose class is predicted right; the model is left in evaluation mode."""
    return num_right(model, spec, split, range(len(split))) / len(split)


def num_right(model: nn.Module, spec: ModelSpec, split: Split, part: range) -> int:
    """Return how many of a split's images from `part.start` to `part.stop` have their class predicted right."""
    right = 0
    for start in range(part.start, part.stop, _BATCH_SIZE):
        chosen = slice(start, min(start + _BATCH_SIZE, part.stop))
        predicted = logits(model, spec, split.images[chosen]).argmax(1).numpy()
        right += int((predicted == split.targets[chosen]).sum())
    return right


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
