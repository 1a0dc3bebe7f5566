"""What people wrap a network in, taken off again: exporters and weights' files know the network alone.

nn.DataParallel, DistributedDataParallel, AveragedModel    .module
torch.compile(network)                                     ._orig_mod
network.compile()                                          a compiled call beside forward
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_WITH_MODULE = (DataParallel, DistributedDataParallel, AveragedModel)


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network without wrappers, around its parts too; it computes the same, and eagerly."""
    network = _inner(network)
    for part in list(network.modules()):
        part._compiled_call_impl = None
        for name, child in part.named_children():
            if (inner := _inner(child)) is not child:
                setattr(part, name, unwrap(inner))
    return network


def _inner(network: nn.Module) -> nn.Module:
    while isinstance(network, _WITH_MODULE) or hasattr(network, "_orig_mod"):
        inner = network.module if isinstance(network, _WITH_MODULE) else network._orig_mod
        assert isinstance(inner, nn.Module)
        network = inner
    return network


def is_scripted(network: nn.Module) -> bool:
    """Whether TorchScript runs the network or a part of it."""
    return any(isinstance(part, torch.jit.ScriptModule) for part in network.modules())


def logits_in(answer: object) -> object:
    """Return what a mapping, a named tuple or a dataclass calls `logits`; the answer itself if it has nothing such."""
    found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    return found if isinstance(found, Tensor) else answer


class LogitsOf(nn.Module):
    """A network whose answer has more in it than logits, which are all that is served."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_NCHW: Tensor) -> object:
        """Return the logits alone."""
        answer = self.network(x_NCHW)
        return answer["logits"] if isinstance(answer, Mapping) else answer.logits
