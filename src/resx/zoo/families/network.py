"""What every family's network has: blocks, and an order of parts that compute what the network computes.

    part    forward
    glue    what is before the first block, between blocks (pooling, transitions) and behind the last one
    block   what can be taken out: a residual block, a dense or highway layer, a convolution with what follows it

Shapes: a part takes and gives [N, C, H, W]; the last one gives logits [N, classes].
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPart:
    """A part of a network, which shares its weights."""

    module: nn.Module
    is_block: bool = False
    name: str = ""
    """A block's, where the network has no name for the module."""
    appends: bool = False
    """Whether a block puts its features behind its input, which it leaves as it is: a dense layer."""


class Network(nn.Module):
    """A network of this project's families."""

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks, first to last."""
        raise NotImplementedError

    def parts(self) -> Iterator[NetworkPart]:
        """Yield the parts in their order."""
        raise NotImplementedError


def glue(*modules: nn.Module) -> NetworkPart:
    """Return modules one after the other as a part that is no block."""
    return NetworkPart(module=nn.Sequential(*modules))


def layer_parts(prefix: str, layers: Iterable[tuple[str, nn.Module]]) -> Iterator[NetworkPart]:
    """Yield each convolution with the batch norm and ReLU behind it as a block, and what is none as glue."""
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
