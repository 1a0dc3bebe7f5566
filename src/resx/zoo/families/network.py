"""The interface of every network: its blocks, and its parts in the order of the forward pass.

    part    contents
    glue    the layers before the first block, between blocks (pooling, transitions) and after the last block
    block   a removable unit: a residual block, a dense or highway layer, a convolution with its batch norm and ReLU

A part maps [N, C, H, W] to [N, C, H, W]; the last one returns logits [N, classes].
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPart:
    """A part of a network. It shares the network's weights."""

    module: nn.Module
    is_block: bool = False
    name: str = ""
    """The name of a block whose module has no name in the network."""
    appends: bool = False
    """Whether a block appends its features to its unchanged input, as a dense layer does."""


class Network(nn.Module):
    """A network of one of the families: images [N, 3, H, W], normalized floats, to logits [N, classes]."""

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks, first to last."""
        raise NotImplementedError

    def parts(self) -> Iterator[NetworkPart]:
        """Yield the parts in the order of the forward pass."""
        raise NotImplementedError


def glue(*modules: nn.Module) -> NetworkPart:
    """Return modules in sequence as a part that is not a block."""
    return NetworkPart(module=nn.Sequential(*modules))


def layer_parts(prefix: str, layers: Iterable[tuple[str, nn.Module]]) -> Iterator[NetworkPart]:
    """Yield each convolution with its batch norm and ReLU as a block, and every other layer as glue."""
    pending: list[nn.Module] = []
    name = ""
    for own_name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            pending, name = [layer], f"{prefix}.{own_name}"
        elif not pending:
            yield glue(layer)
        else:
            pending.append(layer)
            if isinstance(layer, nn.ReLU):
                yield NetworkPart(module=nn.Sequential(*pending), is_block=True, name=name)
                pending = []
