"""What several tests of the zoo need."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


def _lively(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.fixture
def lively() -> Callable[[nn.Module], nn.Module]:
    """Gives a function that makes every batch norm of a model do something, as after training, and ends training."""
    return _lively
