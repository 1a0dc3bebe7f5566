"""The optimizer that a recipe says: which parameters decay, at which share of the rate, and what moves anyway."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from resx.training.config import Recipe
from resx.training.optimization.lamb import Lamb

_SHARE = "share"
"""Of the learning rate: the key in a parameter group."""
_WHOLE_RATE: Mapping[nn.Parameter, float] = MappingProxyType({})


def make_optimizer(
    model: nn.Module, recipe: Recipe, rates: Mapping[nn.Parameter, float] = _WHOLE_RATE
) -> torch.optim.Optimizer:
    """Return the optimizer of a model's parameters that take a gradient.

    Args:
        model: whose parameters.
        recipe: rate, decay and momentum.
        rates: each parameter's share of the learning rate; those that are missing have all of it.
    """
    groups = _parameter_groups(model, recipe, rates)
    if recipe.optimizer == "lamb":
        return Lamb(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter, to each its share."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[_SHARE]


def fill_missing_gradients(model: nn.Module) -> None:
    """Give what no gradient reached one of zeros: the optimizer passes over parameters without a gradient."""
    for parameter in model.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _parameter_groups(model: nn.Module, recipe: Recipe, rates: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """Return the parameters in a group for each pair of weight decay and share of the rate."""
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rests = (name.endswith("bias") and not recipe.decay_biases) or (parameter in norms and not recipe.decay_norms)
        key = (0.0 if rests else recipe.weight_decay, rates.get(parameter, 1.0))
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, _SHARE: share} for (decay, share), parameters in groups.items()
    ]
