"""LAMB: Adam whose step in each tensor has the length of the tensor (You et al. 2019, arXiv:1904.00962, algorithm 2).

As timm has it, which Wightman et al. 2021 (arXiv:2110.00476) train with: all gradients together are first scaled to an
L2 norm of at most 1, tensors without weight decay take Adam's own step, and phi is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_LARGEST_NORM = 1.0


class Lamb(torch.optim.Optimizer):
    """LAMB over parameter groups; each may have a learning rate and a weight decay of its own."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; `closure` is torch's and not used."""
        assert closure is None
        gradients = [one.grad for group in self.param_groups for one in group["params"] if one.grad is not None]
        if not gradients:
            return
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in gradients]))
        scale = (_LARGEST_NORM / norm.clamp(min=1e-12)).clamp(max=1.0)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * self._direction(parameter, parameter.grad * scale, group))

    def _direction(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Return what the parameter moves against, for a learning rate of 1."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["num_steps"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["num_steps"] += 1
        num_steps = float(state["num_steps"])
        mean = state["mean"].lerp_(gradient, 1 - beta1) / (1 - beta1**num_steps)
        square = state["square"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2**num_steps)
        step = mean / (square.sqrt() + group["eps"])
        if not group["weight_decay"]:
            return step
        step = step + group["weight_decay"] * parameter
        length, own = torch.linalg.vector_norm(step), torch.linalg.vector_norm(parameter)
        return step * torch.where((length > 0) & (own > 0), own / length.clamp(min=1e-12), 1.0)
