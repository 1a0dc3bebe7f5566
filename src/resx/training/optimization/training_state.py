"""What training changes: the network, its optimizer, the loss scale and the moving average of the weights.

As tensors by name it goes into a run's resume.safetensors:

    NAME                   the network's weights, under their own names
    momentum.NAME          of SGD; LAMB has lamb.mean.NAME, lamb.square.NAME and lamb.num_steps.NAME
    ema.NAME               the moving average, where there is one, and ema_updates, the number of its steps
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resx.errors import UsageError
from resx.training.config import TrainingConfig
from resx.training.optimization.optimizer import make_optimizer
from resx.training.optimization.stages import Stage, frozen_stages, rates_of, stages_of
from resx.training.processes import Processes, share_batch_statistics
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec
from resx.zoo.weights.pretrained import load_weights

_AVERAGE, _UPDATES = "ema.", "ema_updates"
_PREFIXES = {"momentum_buffer": "momentum.", **{key: f"lamb.{key}." for key in ("mean", "square", "num_steps")}}
"""Of an optimizer's tensors, by the optimizer's own key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What training changes, and a resumed run continues with."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Of fp16 training; disabled otherwise."""
    average: AveragedModel | None = None
    """The moving average of the weights and the batch norms' statistics; None without `ema`."""
    frozen: tuple[Stage, ...] = ()
    """Stages that are not trained."""

    @property
    def published(self) -> nn.Module:
        """The network that is evaluated and published: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def begin_training(self) -> None:
        """Put the network in training mode, all but the frozen stages."""
        self.model.train()
        for stage in self.frozen:
            for module in stage.modules:
                module.eval()

    def update_average(self) -> None:
        """Take a step of the moving average, after one of the optimizer."""
        if self.average is not None:
            self.average.update_parameters(self.model)


def new_state(
    spec: ModelSpec, config: TrainingConfig, processes: Processes, weights: Mapping[str, Tensor] | None = None
) -> TrainingState:
    """Return the state that a run begins with.

    Args:
        spec: the network.
        config: the settings.
        processes: this one's place.
        weights: the network's first weights, all of them; None draws them from the seed.

    Raises:
        UsageError: the network has no stage to freeze of that name.
    """
    model = build_from_spec(spec, seed=config.seed)
    if weights is not None:
        model.load_state_dict(weights)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(processes.device).to(memory_format=layout)
    if processes.count > 1:
        share_batch_statistics(model)
    stages = stages_of(model)
    frozen = frozen_stages(stages, config.freeze)
    for stage in frozen:
        for parameter in stage.parameters():
            parameter.requires_grad_(False)
    # fp16 gradients underflow unless the loss is scaled; disabled, the scaler hands everything through.
    scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "fp16")
    rates = rates_of(stages, config.layer_decay)
    return TrainingState(
        model=model,
        optimizer=make_optimizer(model, config, rates),
        scaler=scaler,
        average=make_average(model, config.ema) if config.ema else None,
        frozen=frozen,
    )


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the moving average of a model: after each step `decay` of it and the rest of the model.

    It begins as the model after the first step. Whole numbers, the batch norms' counters, are copied.
    """

    @torch.no_grad()
    def move(averages: list[Tensor], currents: list[Tensor], _num_averaged: Tensor | int) -> None:
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)  # type: ignore[arg-type]


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    """Return everything but the scaler by name, on the CPU."""
    found = weights_of(state.model)
    for name, parameter in state.model.named_parameters():
        # A block that was dropped in every step so far, and a frozen one, has nothing yet.
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[_PREFIXES[key] + name] = value.detach().cpu().contiguous()
    if state.average is not None:
        found |= {_AVERAGE + name: tensor for name, tensor in weights_of(state.average.module).items()}
        found[_UPDATES] = state.average.n_averaged.detach().cpu()
    return found


def restore(state: TrainingState, stored: Mapping[str, Tensor], *, source: str) -> None:
    """Bring a state to what `tensors_of` returned.

    Raises:
        UsageError: tensors are missing, or are another network's.
    """
    rest = dict(stored)
    average = {name.removeprefix(_AVERAGE): rest.pop(name) for name in list(rest) if name.startswith(_AVERAGE)}
    num_updates = rest.pop(_UPDATES, None)
    parts = {
        key: {name.removeprefix(prefix): rest.pop(name) for name in list(rest) if name.startswith(prefix)}
        for key, prefix in _PREFIXES.items()
    }
    load_weights(state.model, rest, source=source)
    for name, parameter in state.model.named_parameters():
        for key, values in parts.items():
            if name in values:
                # On the parameter's device and in its memory layout.
                like = torch.zeros_like(parameter) if values[name].ndim else torch.zeros(())
                state.optimizer.state[parameter][key] = like.copy_(values[name])
    if state.average is not None and num_updates is not None:
        if not average:
            raise UsageError(f"{source}: has no moving average; train again with --force")
        load_weights(state.average.module, average, source=source)
        state.average.n_averaged.copy_(num_updates)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict on the CPU, as files hold it."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
