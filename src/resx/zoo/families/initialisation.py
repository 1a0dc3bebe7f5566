"""Random weights to begin with, where families share them; DenseNets and highway networks have their own."""

from torch import nn


def initialise_convolutions(model: nn.Module) -> None:
    """He et al. 2015b (arXiv:1502.01852), equation 10: convolutions normal with fan-out variance."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
