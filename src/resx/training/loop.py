"""The training loop: one device, SGD, an epoch at a time, exactly resumable.

Every epoch seeds its own generators from (seed, epoch): order of the images, augmentation and dropped
blocks depend on nothing that came before, so a resumed run repeats what an uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.errors import ResxError
from resx.training import checkpoint
from resx.training.checkpoint import Metrics, Progress
from resx.training.config import TrainingConfig
from resx.training.data import DataSet, Split, shifted
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec

OnStep: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""
OnEpoch: TypeAlias = Callable[[Metrics], None]
"""Called with the metrics of every finished epoch, those of a resumed run included."""

_DIVERGED = "the last finished epoch is kept; lower --learning-rate"


def train(
    spec: ModelSpec, data: DataSet, config: TrainingConfig, folder: Path, *,
    resume: bool = False, on_step: OnStep = lambda _done, _all: None, on_epoch: OnEpoch = lambda _metrics: None,
) -> nn.Module:  # fmt: skip
    """Train a network and keep it in `folder`; return it in evaluation mode.

    An interruption at any moment leaves the folder at the last finished epoch.

    Raises:
        UsageError: the folder holds a run begun with another network or other settings.
        ResxError: the loss is no longer finite.
    """
    model = build_from_spec(spec, seed=config.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum,
        weight_decay=config.weight_decay, nesterov=config.momentum > 0,
    )  # fmt: skip
    progress = Progress(epochs_done=0, metrics=())
    if resume:
        progress = checkpoint.resume_run(folder, model, optimizer, spec, config)
    else:
        checkpoint.begin_run(folder, spec, config)
    for entry in progress.metrics:
        on_epoch(entry)
    steps_per_epoch = _steps(len(data.train), config.batch_size)
    for epoch in range(progress.epochs_done, config.epochs):
        started = time.monotonic()
        loss = _train_epoch(model, optimizer, spec, data.train, config, epoch, on_step)
        seconds = time.monotonic() - started
        entry = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps_per_epoch,
            "loss": loss,
            "accuracy": accuracy(model, spec, data.held_out),
            "learning_rate": optimizer.param_groups[0]["lr"],
            "images_per_s": round(len(data.train) / seconds, 1),
        }
        _require_finite(model, step=(epoch + 1) * steps_per_epoch)
        progress = Progress(epochs_done=epoch + 1, metrics=(*progress.metrics, entry))
        checkpoint.save_epoch(folder, model, optimizer, progress)
        on_epoch(entry)
    return model.eval()


def accuracy(model: nn.Module, spec: ModelSpec, split: Split) -> float:
    """Return the share of images whose class is predicted right; the model is left in evaluation mode."""
    predicted = logits(model, spec, split.images).argmax(1).numpy()
    return float((predicted == split.targets).mean())


def logits(model: nn.Module, spec: ModelSpec, images_NCHW: npt.NDArray[np.uint8], batch_size: int = 128) -> Tensor:
    """Return the model's logits [N, classes] for UINT8 images, evaluated in batches, in fp32 on its device."""
    model.eval()
    with torch.inference_mode():
        batches = [
            model(normalised(images_NCHW[start : start + batch_size], spec, device_of(model))).cpu()
            for start in range(0, len(images_NCHW), batch_size)
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


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.SGD, spec: ModelSpec, train: Split,
    config: TrainingConfig, epoch: int, on_step: OnStep,
) -> float:  # fmt: skip
    """Go once over the training images; return the mean loss."""
    random = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(random.integers(2**63)))
    order = random.permutation(len(train))
    steps = _steps(len(order), config.batch_size)
    model.train()
    total = 0.0
    for step in range(steps):
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        x_NCHW = normalised(shifted(train.images[chosen], config.shift_px, random), spec, device_of(model))
        targets = torch.from_numpy(train.targets[chosen]).to(x_NCHW.device)
        optimizer.param_groups[0]["lr"] = _learning_rate(config, epoch * steps + step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x_NCHW), targets)
        if not math.isfinite(value := loss.item()):
            raise ResxError(f"loss is {value} in step {epoch * steps + step + 1}: {_DIVERGED}")
        loss.backward()
        optimizer.step()
        total += value
        on_step(epoch * steps + step + 1, config.epochs * steps)
    return total / steps


def _require_finite(model: nn.Module, *, step: int) -> None:
    """Refuse to keep weights that the last update has ruined, though the loss before it was finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        raise ResxError(f"weights are not finite after step {step}: {_DIVERGED}")


def _steps(num_images: int, batch_size: int) -> int:
    return max(1, num_images // batch_size)


def _learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    if step < steps_per_epoch:
        return config.learning_rate * (step + 1) / steps_per_epoch
    past = (step - steps_per_epoch) / max(1, (config.epochs - 1) * steps_per_epoch)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * past))
