"""What a network says of images: normalisation, logits in batches, accuracy. Always FP32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resx.training.data import Images, Split
from resx.zoo.spec import ModelSpec


def accuracy(model: nn.Module, spec: ModelSpec, split: Split) -> float:
    """Return the share of images whose class is predicted right; the model is left in evaluation mode."""
    predicted = logits(model, spec, split.images).argmax(1).numpy()
    return float((predicted == split.targets).mean())


def logits(model: nn.Module, spec: ModelSpec, images: Images, batch_size: int = 128) -> Tensor:
    """Return the model's logits [N, classes] for UINT8 images, evaluated in batches, in fp32 on its device."""
    model.eval()
    with torch.inference_mode():
        batches = [
            model(normalised(images[start : start + batch_size], spec, device_of(model))).cpu()
            for start in range(0, len(images), batch_size)
        ]
    return torch.cat(batches)


def normalised(images_NCHW: npt.NDArray[np.uint8], spec: ModelSpec, device: torch.device) -> Tensor:
    """Return (image / 255 - mean) / std as FP32 [N, 3, H, W] on the device."""
    x_NCHW = torch.from_numpy(images_NCHW).to(device, torch.float32).div_(255)
    mean = torch.tensor(spec.mean, device=device).view(3, 1, 1)
    return x_NCHW.sub_(mean).div_(torch.tensor(spec.std, device=device).view(3, 1, 1))


def device_of(model: nn.Module) -> torch.device:
    """Return the device that holds the model's parameters."""
    return next(model.parameters()).device
