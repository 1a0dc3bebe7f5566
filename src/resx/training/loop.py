"""The training loop, an epoch at a time, exactly resumable, by one process or several.

Order of the images, augmentation and dropped blocks of an epoch depend on nothing that came before
(resx.training.batches), so a resumed run repeats what an uninterrupted one does. They are the same in every
process; each works on its part of the batch (resx.training.processes).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from resx.data.augment import BLACK
from resx.data.dataset import DataSet, Split
from resx.data.validation import hold_out_for_validation
from resx.errors import ResxError, UsageError
from resx.training.batches import Batch, batches_of, prepare_ahead, seed_epoch, send, steps_per_epoch
from resx.training.compiling import Forward, compiled_forward
from resx.training.config import BestBy, TrainingConfig, learning_rate_at
from resx.training.devices import AUTOCAST_TYPES, exact_convolutions, name_of
from resx.training.evaluation import Scores, normaliser, score
from resx.training.optimization.loss import Loss, make_loss
from resx.training.optimization.optimizer import fill_missing_gradients, set_learning_rate
from resx.training.optimization.training_state import TrainingState, new_state
from resx.training.processes import (
    Processes,
    average_gradients,
    first_alone,
    mean_over_processes,
    sum_over_processes,
)
from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import RunProgress
from resx.training.runs.run_folder import OwnFolder, claim
from resx.training.runs.run_metrics import HELD_OUT_NAMES, VALIDATION_NAMES, Metrics
from resx.training.runs.run_origin import Origin, read_config
from resx.training.transforms import Transforms, make_transforms
from resx.zoo.spec import ModelSpec

OnStep: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""
OnEpoch: TypeAlias = Callable[[Metrics], None]
"""Called with the metrics of every finished epoch, those of a resumed run included; in the first process only."""

ALONE = Processes()

_DIVERGED = "the last finished epoch is kept; lower --learning-rate"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A run as this process computes it."""

    config: TrainingConfig
    spec: ModelSpec
    data: DataSet
    processes: Processes
    state: TrainingState
    forward: Forward
    """The model's, compiled or not; in training only."""
    normalise: Callable[[Tensor], Tensor]
    transforms: Transforms
    loss: Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """What is trained, where it is kept, and what becomes of a run that is there."""

    spec: ModelSpec
    data: DataSet
    config: TrainingConfig
    """The settings; the device and the number of processes are those that compute it."""
    folder: Path
    """Nobody else may train there meanwhile."""
    weights: Mapping[str, Tensor] | None = None
    """The network's first weights (`resx.training.starting_weights`); None draws them from the seed. A run that is
    resumed has its own."""
    resume: bool = False
    """Go on with the run in the folder."""
    ignore_times: bool = False
    """With `resume`, take files for unchanged if only their modification times differ."""
    extend: bool = False
    """With `resume`, until `config.epochs` whatever the run was begun with. The learning rate goes on as in a run of so
    many epochs."""
    force: bool = False
    """Delete the run in the folder."""


def train(
    run: TrainingRun,
    *,
    processes: Processes = ALONE,
    on_step: OnStep = lambda _done, _all: None,
    on_epoch: OnEpoch = lambda _metrics: None,
) -> nn.Module:
    """Train a network and keep it in the run's folder; return it in evaluation mode.

    An interruption at any moment leaves the folder at the last finished epoch.

    Args:
        run: what is trained.
        processes: this one's place among those that train together.
        on_step: called after every step.
        on_epoch: called after every epoch.

    Raises:
        UsageError: another process trains in the folder, it holds a run (one begun with another network, other
            settings or other data, if it is resumed) or something else, there is one image only, or the processes
            cannot share a batch equally.
        ResxError: the loss or the weights are no longer finite, the folder cannot be written, or is another one by now.
    """
    spec, folder = run.spec, run.folder
    data = hold_out_for_validation(run.data, run.config.validation)
    if len(data.train) < 2:
        raise UsageError(f"data {run.config.data}: only one training image, and batch norm needs two; add more")
    processes.part(min(run.config.batch_size, len(data.train)))  # before the folder is made
    config = run.config.model_copy(update={"num_processes": processes.count, "device": processes.kind})
    origin = Origin(spec=spec, training=config)
    with _claim(run, processes) as own, exact_convolutions():
        state = new_state(spec, config, processes, None if run.resume else run.weights)
        progress = _begin_or_resume(run, origin, state, processes)
        if processes.is_first:
            for entry in progress.metrics:
                on_epoch(entry)
        with _working(state, spec, data, config, processes) as work:
            while not progress.is_over(config):
                entry = _train_epoch(work, progress.epochs_done, on_step) | _measure(work)
                progress = RunProgress(epochs_done=progress.epochs_done + 1, metrics=(*progress.metrics, entry))
                if processes.is_first:
                    for held in own:
                        held.require_same()
                    checkpoint.save_epoch(folder, origin, state, progress)
                    on_epoch(entry)
    return state.published.eval()


@contextlib.contextmanager
def _claim(run: TrainingRun, processes: Processes) -> Iterator[list[OwnFolder]]:
    """Let the first process hold the folder for all; it gets the folder, the others nothing."""
    own: list[OwnFolder] = []
    with contextlib.ExitStack() as held:
        claimed = claim(run.folder, resume=run.resume, force=run.force)
        first_alone(processes, lambda: own.append(held.enter_context(claimed)))
        yield own


def _begin_or_resume(run: TrainingRun, origin: Origin, state: TrainingState, processes: Processes) -> RunProgress:
    """Write a run's beginning into its folder, or read into `state` how far the one there has come."""
    if not run.resume:
        first = None if run.weights is None else state
        first_alone(
            processes,
            lambda: checkpoint.begin_run(run.folder, run.spec, origin.training, run.data.fingerprint, first),
        )
        return RunProgress(epochs_done=0, metrics=())
    checkpoint.require_same_data(run.folder, run.data, ignore_times=run.ignore_times)
    progress = checkpoint.resume_run(run.folder, state, origin, extend=run.extend)
    first_alone(processes, lambda: _write_again(run.folder, origin, state.published, progress))
    return progress


def _write_again(folder: Path, origin: Origin, model: nn.Module, progress: RunProgress) -> None:
    """Write what a kill may have kept from being written, and the configuration, whose epochs may be more now."""
    if read_config(folder) != origin.training:
        checkpoint.write_config(folder, origin.training, kept=progress.epochs_done)
    checkpoint.publish(folder, origin, model, progress)


@contextlib.contextmanager
def _working(
    state: TrainingState, spec: ModelSpec, data: DataSet, config: TrainingConfig, processes: Processes
) -> Iterator[_Work]:
    with compiled_forward(state.model) if config.compiled else contextlib.nullcontext(state.model) as forward:
        yield _Work(
            config=config,
            spec=spec,
            data=data,
            processes=processes,
            state=state,
            forward=forward,
            normalise=normaliser(spec, processes.device),
            transforms=make_transforms(config, spec.classes),
            loss=make_loss(config, data.train.targets, spec.classes, processes.device),
        )


def _train_epoch(work: _Work, epoch: int, on_step: OnStep) -> Metrics:
    """Go once over the training images; return the epoch's metrics, accuracy aside."""
    config, num_images = work.config, len(work.data.train)
    steps = steps_per_epoch(num_images, config.batch_size)
    started = time.monotonic()
    total = 0.0
    for step, loss in _read_late(_losses(work, epoch)):
        if not math.isfinite(loss):
            raise ResxError(f"loss is {loss} in step {step + 1}: {_DIVERGED}")
        total += loss
        on_step(step + 1, config.epochs * steps)
    _require_finite(work.state.model, step=(epoch + 1) * steps)
    return {
        "epoch": epoch + 1,
        "step": (epoch + 1) * steps,
        "loss": total / steps,
        "learning_rate": learning_rate_at(config, (epoch + 1) * steps - 1, steps),
        "images_per_s": round(steps * min(config.batch_size, num_images) / (time.monotonic() - started), 1),
        "device": name_of(work.processes.device),
        "precision": config.precision,
        "num_processes": config.num_processes,
    }


def _losses(work: _Work, epoch: int) -> Iterator[tuple[int, Tensor]]:
    """Train an epoch; yield each step and its loss, still on the device."""
    config, train_part = work.config, work.data.train
    steps = steps_per_epoch(len(train_part), config.batch_size)
    random = seed_epoch(config.seed, epoch)
    host = batches_of(train_part, config, work.processes, epoch, random, _edge(work))
    work.state.begin_training()
    with contextlib.closing(prepare_ahead(send(host, work.processes.device))) as batches:
        for batch in batches:
            set_learning_rate(work.state.optimizer, learning_rate_at(config, batch.step, steps))
            yield batch.step, _train_step(work, batch.arrive())


def _edge(work: _Work) -> tuple[int, int, int]:
    """Return the color of what a moved image leaves bare, to half a grey level."""
    if work.config.padding == "zeros":
        return BLACK
    red, green, blue = (min(max(round(255 * mean), 0), 255) for mean in work.spec.mean)
    return red, green, blue


def _read_late(losses: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, float]]:
    """Yield each loss as a number when the next step has been given to the device, which is never idle for it."""
    waiting: tuple[int, Tensor] | None = None
    for following in losses:
        if waiting is not None:
            yield waiting[0], float(waiting[1].item())
        waiting = following
    assert waiting is not None
    yield waiting[0], float(waiting[1].item())


def _train_step(work: _Work, batch: Batch) -> Tensor:
    """Update the weights once; return the loss, the mean over the whole batch."""
    config, processes = work.config, work.processes
    model, optimizer, scaler = work.state.model, work.state.optimizer, work.state.scaler
    optimizer.zero_grad(set_to_none=True)
    images = work.normalise(work.transforms.change_images(batch.images, batch.seeds))
    images, targets = work.transforms.finish(images, batch.targets, batch.seeds, batch.mix_seed)
    images = images.contiguous(memory_format=_layout(config))
    autocast = torch.autocast(
        processes.device.type, dtype=AUTOCAST_TYPES[config.precision], enabled=config.precision != "fp32"
    )
    with autocast:
        loss = work.loss(work.forward(images), targets)
    scaler.scale(loss).backward()
    average_gradients(model, processes)
    if config.skipped_blocks == "move":
        fill_missing_gradients(model)
    if config.clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    scaler.step(optimizer)
    scaler.update()
    work.state.update_average()
    return mean_over_processes(loss, processes)


def _measure(work: _Work) -> Metrics:
    """Return the metrics of the held-out images, and of the validation images where there are any."""
    found = _metrics_of(work, work.data.held_out, HELD_OUT_NAMES)
    if work.data.validation is not None:
        found |= _metrics_of(work, work.data.validation, VALIDATION_NAMES)
    return found


def _metrics_of(work: _Work, split: Split, names: dict[BestBy, str]) -> Metrics:
    """Return the metrics of a split's images; each process looks at its share of them."""
    part = score(work.state.published, work.spec, split, work.processes.share(len(split)))
    sums = sum_over_processes(np.concatenate([part.num_right, part.num_images, [part.loss]]), work.processes)
    num_right, num_images = sums[:-1].reshape(2, -1)
    whole = Scores(num_right=num_right, num_images=num_images, loss=float(sums[-1]))
    values: dict[BestBy, float] = {
        "accuracy": whole.accuracy,
        "loss": whole.mean_loss,
        "balanced-accuracy": whole.balanced_accuracy,
    }
    if not math.isfinite(whole.mean_loss):
        raise ResxError(f"loss on the held-out images is {whole.mean_loss}: {_DIVERGED}")
    return {names[key]: value for key, value in values.items()}


def _layout(config: TrainingConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _require_finite(model: nn.Module, *, step: int) -> None:
    """Refuse to keep weights that the last update has ruined, though the loss before it was finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        raise ResxError(f"weights are not finite after step {step}: {_DIVERGED}")
