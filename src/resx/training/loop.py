"""The training loop: SGD, an epoch at a time, exactly resumable, by one process or several.

Every epoch seeds its own generators from (seed, epoch): order of the images, augmentation and dropped
blocks depend on nothing that came before, so a resumed run repeats what an uninterrupted one does. They
are the same in every process; each works on its part of the batch (resx.training.processes).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.errors import ResxError, UsageError
from resx.training import checkpoint
from resx.training.augment import augmented, draw
from resx.training.checkpoint import Metrics, Progress, TrainingState
from resx.training.config import TrainingConfig, learning_rate_at
from resx.training.data import DataSet, Split
from resx.training.evaluation import accuracy, normalised
from resx.training.processes import (
    Processes,
    average_gradients,
    first_alone,
    mean_over_processes,
    share_batch_statistics,
)
from resx.training.run_folder import OwnFolder, claim
from resx.training.run_origin import Origin, read_config
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec

OnStep: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""
OnEpoch: TypeAlias = Callable[[Metrics], None]
"""Called with the metrics of every finished epoch, those of a resumed run included; in the first process only."""

ALONE = Processes()

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DIVERGED = "the last finished epoch is kept; lower --learning-rate"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """This process's part of a step's images."""

    step: int
    """From 0, over the whole run."""
    images: Tensor
    """[N, 3, H, W], normalised."""
    targets: Tensor


def train(
    spec: ModelSpec, data: DataSet, config: TrainingConfig, folder: Path, *,
    resume: bool = False, ignore_times: bool = False, extend: bool = False, force: bool = False,
    processes: Processes = ALONE,
    on_step: OnStep = lambda _done, _all: None, on_epoch: OnEpoch = lambda _metrics: None,
) -> nn.Module:  # fmt: skip
    """Train a network and keep it in `folder`; return it in evaluation mode.

    An interruption at any moment leaves the folder at the last finished epoch.

    Args:
        spec: the network.
        data: what it is trained and evaluated on.
        config: the settings.
        folder: where the run is kept; nobody else may train there meanwhile.
        resume: go on with the run in the folder.
        ignore_times: with `resume`, take files for unchanged if only their modification times differ.
        extend: with `resume`, until `config.epochs` whatever the run was begun with. The learning rate goes on as in a
            run of so many epochs.
        force: delete the run in the folder.
        processes: this one's place among those that train together.
        on_step: called after every step.
        on_epoch: called after every epoch.

    Raises:
        UsageError: another process trains in the folder, it holds a run (one begun with another network, other
            settings or other data, if it is resumed) or something else, there is one image only, or the processes
            cannot share a batch equally.
        ResxError: the loss or the weights are no longer finite, the folder cannot be written, or is another one by now.
    """
    assert processes.device.type == config.device, (processes.device, config.device)
    if len(data.train) < 2:
        raise UsageError(f"data {config.data}: one image to train on, and batch norm needs two; give more")
    processes.part(min(config.batch_size, len(data.train)))  # before the folder is made
    origin = Origin(spec=spec, training=config)
    with _claimed(folder, processes, resume=resume, force=force) as own:
        state = _new_state(spec, config, processes)
        progress = Progress(epochs_done=0, metrics=())
        if resume:
            checkpoint.require_same_data(folder, data, ignore_times=ignore_times)
            progress = checkpoint.resume_run(folder, state, origin, extend=extend)
            first_alone(processes, lambda: _write_again(folder, origin, state.model, progress))
        else:
            first_alone(processes, lambda: checkpoint.begin_run(folder, spec, config, data.fingerprint))
        if processes.is_first:
            for entry in progress.metrics:
                on_epoch(entry)
        for epoch in range(progress.epochs_done, config.epochs):
            entry = _train_epoch(state, spec, data.train, config, processes, epoch, on_step)
            if processes.is_first:
                entry["accuracy"] = accuracy(state.model, spec, data.held_out)
                progress = Progress(epochs_done=epoch + 1, metrics=(*progress.metrics, entry))
                for held in own:
                    held.require_same()
                checkpoint.save_epoch(folder, origin, state, progress)
                on_epoch(entry)
    return state.model.eval()


@contextlib.contextmanager
def _claimed(folder: Path, processes: Processes, *, resume: bool, force: bool) -> Iterator[list[OwnFolder]]:
    """Let the first process hold the folder for all; it gets the folder, the others nothing."""
    own: list[OwnFolder] = []
    with contextlib.ExitStack() as held:
        first_alone(processes, lambda: own.append(held.enter_context(claim(folder, resume=resume, force=force))))
        yield own


def _write_again(folder: Path, origin: Origin, model: nn.Module, progress: Progress) -> None:
    """Write what a kill may have kept from being written, and the configuration, whose epochs may be more now."""
    if read_config(folder) != origin.training:
        checkpoint.write_config(folder, origin.training, kept=progress.epochs_done)
    checkpoint.publish(folder, origin, model, progress)


def _new_state(spec: ModelSpec, config: TrainingConfig, processes: Processes) -> TrainingState:
    model = build_from_spec(spec, seed=config.seed).to(processes.device)
    if processes.count > 1:
        share_batch_statistics(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum,
        weight_decay=config.weight_decay, nesterov=config.nesterov and config.momentum > 0,
    )  # fmt: skip
    # fp16 gradients underflow unless the loss is scaled; disabled, the scaler hands everything through.
    scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "fp16")
    return TrainingState(model=model, optimizer=optimizer, scaler=scaler)


def _train_epoch(
    state: TrainingState, spec: ModelSpec, train: Split, config: TrainingConfig,
    processes: Processes, epoch: int, on_step: OnStep,
) -> Metrics:  # fmt: skip
    """Go once over the training images; return the epoch's metrics, accuracy aside."""
    steps = _steps(len(train), config.batch_size)
    started = time.monotonic()
    state.model.train()
    total = 0.0
    for batch in _batches(spec, train, config, processes, epoch):
        state.optimizer.param_groups[0]["lr"] = learning_rate_at(config, batch.step, steps)
        total += _train_step(state, batch, config, processes)
        on_step(batch.step + 1, config.epochs * steps)
    _require_finite(state.model, step=(epoch + 1) * steps)
    return {
        "epoch": epoch + 1,
        "step": (epoch + 1) * steps,
        "loss": total / steps,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "images_per_s": round(steps * min(config.batch_size, len(train)) / (time.monotonic() - started), 1),
    }


def _batches(
    spec: ModelSpec, train: Split, config: TrainingConfig, processes: Processes, epoch: int
) -> Iterator[_Batch]:
    """Yield this process's part of each batch of an epoch; seeds torch's generator for the dropped blocks too."""
    random = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(random.integers(2**63)))
    order = random.permutation(len(train))
    steps = _steps(len(order), config.batch_size)
    for step in range(steps):
        whole = order[step * config.batch_size : (step + 1) * config.batch_size]
        part = processes.part(len(whole))
        draws = draw(len(whole), random, max_px=config.shift_px, flip=config.flip).part(part)
        pixels = augmented(train.images[whole[part]], draws)
        yield _Batch(
            step=epoch * steps + step,
            images=normalised(pixels, spec, processes.device),
            targets=torch.from_numpy(train.targets[whole[part]]).to(processes.device),
        )


def _train_step(state: TrainingState, batch: _Batch, config: TrainingConfig, processes: Processes) -> float:
    """Update the weights once; return the loss, the mean over the whole batch."""
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    optimizer.zero_grad(set_to_none=True)
    autocast = torch.autocast(
        processes.device.type, dtype=_AUTOCAST[config.precision], enabled=config.precision != "fp32"
    )
    with autocast:
        loss = F.cross_entropy(model(batch.images), batch.targets, label_smoothing=config.label_smoothing)
    if not math.isfinite(value := mean_over_processes(loss, processes)):
        raise ResxError(f"loss is {value} in step {batch.step + 1}: {_DIVERGED}")
    scaler.scale(loss).backward()
    average_gradients(model, processes)
    if config.clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return value


def _require_finite(model: nn.Module, *, step: int) -> None:
    """Refuse to keep weights that the last update has ruined, though the loss before it was finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        raise ResxError(f"weights are not finite after step {step}: {_DIVERGED}")


def _steps(num_images: int, batch_size: int) -> int:
    """Whole batches only; one that takes all where there are fewer images than that."""
    return max(1, num_images // batch_size)
