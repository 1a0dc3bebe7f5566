"""The graph as the file has it: nodes with their multiply-adds, each in a block of the network.

A block is named by its modules: `layer1.0` holds layer1.0.conv1 and layer1.0.downsample.0, that is, the name up to the
last number above the layer itself. A layer without such a number is a block of its own. A node without weights
belongs to the last of the blocks that its inputs come from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

BEFORE = "(input)"
"""The block of what comes before the first layer."""
_INTEGER_WORDS = ("Quantize", "QLinear", "Integer", "QGemm")
_BEFORE_A_BLOCK = ("Slice", "Pad", "StridedSlice")
"""What a zero-padded shortcut is made of: it stands before the weights of the block that it belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceNode:
    """A node of the file."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None
    """Whose weights it has; None: it has none."""
    is_weighted: bool = False
    """Whether it multiplies and adds."""
    macs: int | None = 0
    """Multiply-adds at the batch; None where shapes are not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceGraph:
    """All nodes, in their order."""

    nodes: tuple[SourceNode, ...]
    blocks: tuple[str, ...]
    """Of each node; empty: of none."""
    stores_fp16: bool = False
    """Whether weights are in 16 bits."""

    @property
    def has_integers(self) -> bool:
        """Whether it is quantized."""
        return any(word in node.operator for node in self.nodes for word in _INTEGER_WORDS)

    def by_name(self) -> dict[str, int]:
        """Return each node's place, by its name and by those of its outputs."""
        outputs = {name: place for place, node in enumerate(self.nodes) for name in node.outputs}
        return outputs | {node.name: place for place, node in enumerate(self.nodes)}


def blocks_of_nodes(nodes: Sequence[SourceNode], known: Collection[str] | None = None) -> tuple[str, ...]:
    """Return the block of each node.

    Args:
        nodes: in their order.
        known: the modules that are blocks; None: a module's name says it, and each node has a block.
    """
    of_tensor: dict[str, str] = {}
    rank: dict[str, int] = {"": -1}
    found: list[str] = []
    for node in nodes:
        if node.module is None:
            block = max((of_tensor.get(name, "") for name in node.inputs), key=rank.__getitem__, default="")
        else:
            block = _block_of(node.module) if known is None else _longest_prefix(node.module, known)
        rank.setdefault(block, len(rank))
        of_tensor |= dict.fromkeys(node.outputs, block)
        found.append(block)
    _move_shortcuts(nodes, found, rank)
    return tuple(found if known is not None else (block or BEFORE for block in found))


def _move_shortcuts(nodes: Sequence[SourceNode], blocks: list[str], rank: Mapping[str, int]) -> None:
    """Give what stands before a block to the block that uses it."""
    users: dict[str, list[str]] = {}
    for node, block in zip(nodes, blocks, strict=True):
        for name in node.inputs:
            users.setdefault(name, []).append(block)
    for place, node in reversed(list(enumerate(nodes))):
        behind = [block for name in node.outputs for block in users.get(name, [])]
        if node.operator in _BEFORE_A_BLOCK and behind:
            blocks[place] = max(behind, key=rank.__getitem__)
            for name in node.inputs:
                users[name].append(blocks[place])


def _block_of(module: str) -> str:
    *parents, _ = module.split(".")
    numbered = [place for place, part in enumerate(parents) if part[-1:].isdigit()]
    return ".".join(parents[: numbered[-1] + 1]) if numbered else module


def _longest_prefix(module: str, known: Collection[str]) -> str:
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), "")
