"""Stochastic gradient descent as a recipe says: which parameters decay, and what moves without a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from resx.training.config import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return the optimizer of a model's parameters."""
    return torch.optim.SGD(
        _parameter_groups(model, recipe),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def set_learning_rate(optimizer: torch.optim.SGD, learning_rate: float) -> None:
    """Set the learning rate of every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def fill_missing_gradients(model: nn.Module) -> None:
    """Give what no gradient reached one of zeros: the optimizer passes over parameters without a gradient."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return all parameters in one group, or the biases in one of their own that does not decay."""
    if recipe.decay_biases:
        return [{"params": list(model.parameters())}]
    weights, biases = (
        [parameter for name, parameter in model.named_parameters() if name.endswith("bias") == is_bias]
        for is_bias in (False, True)
    )
    return [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
