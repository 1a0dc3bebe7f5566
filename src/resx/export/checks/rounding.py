"""What rounding to 16 bits does to a network by itself, computed in fp32 arithmetic, the same on every processor.

Most networks lose no more than `parity.TOLERANCES` says. One that amplifies small differences, such as a deep plain
network of random weights, loses more without any fault: each layer's rounding is carried through all the others.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def round_network(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy whose weights, and whose layers' outputs, are rounded to `dtype` and kept in fp32."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(_round(parameter, dtype))

    def round_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return _round(output, dtype) if isinstance(output, Tensor) and output.is_floating_point() else output

    for module in rounded.modules():
        if not any(module.children()):
            module.register_forward_hook(round_output)
    return rounded


def _round(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).to(tensor.dtype)
