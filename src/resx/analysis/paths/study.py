"""Paths through a network: how many there are of each length, and how much gradient they carry.

Veit et al. 2016 (arXiv:1605.06431), sections 3 and 4.3. A path goes through the branch or past it at each block; its
length is the number of branches on it.

**What is exact.** Let block l be H_l = A_l(s_l(H_{l-1}) + p_l f_l(H_{l-1})), A_l what stands behind the addition. At
one image and the weights as they are, the chain rule gives the gradient of the loss C at the first block's input as

    dC/dH_L  prod_l  A'_l (s'_l + p_l f'_l)

a product of sums of matrices. Multiplied out it is a sum over all 2^L choices of one summand per block, and each
choice is a path. So the sum of all paths' gradients is the gradient, exactly, where every ReLU's gate, every
highway gate and every statistic of a batch norm is that of the whole network's forward pass. It is the backward pass
that takes one path; the forward pass is never that of a single path, for which no such identity holds.

**Sampling**, as in the paper: the batch goes forward through the whole network; for a length k, k random blocks let
the gradient through their branch alone and the others through their shortcut alone. Means over paths and images of
the norm of an image's gradient; times the number of paths of that length it says which lengths matter. Norms do not
add up as the gradients themselves do: paths may cancel.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from resx.analysis.network_steps import Step
from resx.values import FrozenModel
from resx.zoo.architectures import Architecture, DenseNetArchitecture

CARRIES = 0.95
"""The share that a span has to carry."""

OnLength: TypeAlias = Callable[[int, int], None]
"""Called with (lengths measured, lengths in all)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A point of a network's graph; a node behind several inputs continues the paths of each."""

    length: int
    """What passing it adds to a path: 1 for a branch or dense layer, 0 for a sum, a concatenation or an entry."""
    inputs: tuple[int, ...]
    """Earlier nodes, by their index."""


class Span(FrozenModel):
    """The shortest run of lengths that carries a share of something."""

    low: int
    high: int
    share: float


class PathLengths(FrozenModel):
    """Number of paths of each length."""

    num_blocks: int
    counts: tuple[int, ...]
    """Exact number of paths of the lengths 0, 1, 2, ..."""
    shares: tuple[float, ...]
    mean: float
    std: float
    span: Span
    """The shortest with 95 % of all paths."""

    def share_between(self, low: int, high: int) -> float:
        """Return the share of the paths that have `low` to `high` blocks, both included."""
        chosen = sum(count for length, count in enumerate(self.counts) if low <= length <= high)
        return chosen / sum(self.counts)


class LengthGradient(FrozenModel):
    """The gradient that paths of one length carry to the first block's input."""

    length: int
    mean: float
    """Mean norm of one image's gradient along one path, over sampled paths and images."""
    std: float
    """Standard deviation of the sampled paths' means; 0 with one path."""
    num_paths: int = Field(ge=1)
    """Number of sampled paths."""


class PathGradients(FrozenModel):
    """Gradients by path length."""

    num_images: int
    full: float
    """Mean norm of the whole gradient."""
    lengths: tuple[LengthGradient, ...]
    shares: tuple[float, ...]
    """Number of paths times mean gradient for each length, as a share of the sum over all lengths."""
    mean_length: float
    """Mean of the lengths, weighted so."""
    span: Span
    """The shortest with 95 % of the sum."""


def topology(architecture: Architecture, kept: Sequence[int]) -> list[Node]:
    """Return the graph of a network with the blocks `kept`, numbered from 1; its last node is where all paths end.

    A dense layer reads the concatenation of its block's input and of all layers before it in that block, and the
    block's output is the concatenation of them all.
    """
    nodes = [Node(length=0, inputs=())]
    if isinstance(architecture, DenseNetArchitecture):
        for depth in architecture.block_depths:
            features = [len(nodes) - 1]
            for _ in range(depth):
                nodes.append(Node(length=1, inputs=tuple(features)))
                features.append(len(nodes) - 1)
            nodes.append(Node(length=0, inputs=tuple(features)))
        return nodes
    for _ in kept:
        before = len(nodes) - 1
        nodes.append(Node(length=1, inputs=(before,)))
        nodes.append(Node(length=0, inputs=(before, before + 1)))
    return nodes


def path_lengths(nodes: Sequence[Node]) -> PathLengths:
    """Count the paths of a graph by their length, with integers of any size."""
    num_blocks = sum(node.length for node in nodes)
    counts: list[list[int]] = []
    for node in nodes:
        arriving = [0] * (num_blocks + 1)
        if not node.inputs:
            arriving[0] = 1
        for one in node.inputs:
            arriving = [a + b for a, b in zip(arriving, counts[one], strict=True)]
        counts.append([0] * node.length + arriving[: num_blocks + 1 - node.length])
    last, total = counts[-1], sum(counts[-1])
    shares = [count / total for count in last]
    mean = sum(length * count for length, count in enumerate(last)) / total
    return PathLengths(
        num_blocks=num_blocks,
        counts=tuple(last),
        shares=tuple(shares),
        mean=mean,
        std=math.sqrt(sum(share * (length - mean) ** 2 for length, share in enumerate(shares))),
        span=carrying_span(shares),
    )


def carrying_span(shares: Sequence[float], least: float = CARRIES) -> Span:
    """Return the shortest run of lengths whose shares add up to `least`; of equally short ones the heaviest."""
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    for width in range(1, len(shares) + 1):
        carried = sums[width:] - sums[:-width]
        low = int(carried.argmax())
        if carried[low] >= least * sums[-1]:
            return Span(low=low, high=low + width - 1, share=float(carried[low] / sums[-1]))
    raise AssertionError("all lengths together carry everything")


class PathTape:
    """A forward pass through a whole network that remembers, block by block, how to go back through one path."""

    def __init__(self, steps: Sequence[Step], x_NCHW: Tensor, targets: Tensor) -> None:
        """Run images [N, 3, H, W] with their classes; the loss is the sum of their cross-entropies."""
        self._joints: list[tuple[Tensor, Tensor, Tensor, bool]] = []
        self.num_blocks = sum(bool(step.block) for step in steps)
        for step in steps:
            ways = x_NCHW.detach().requires_grad_(), x_NCHW.detach().requires_grad_()
            with torch.enable_grad():
                block = step.residual
                x_NCHW = step.whole(ways[0]) if block is None else block.apart(*ways)
            self._joints.append((*ways, x_NCHW, block is not None))
        with torch.enable_grad():
            leaf = x_NCHW.detach().requires_grad_()
            loss = F.cross_entropy(leaf, targets, reduction="sum")
        (self._of_logits,) = torch.autograd.grad(loss, leaf)
        first = next(index for index, joint in enumerate(self._joints) if joint[3])
        self._joints = self._joints[first:]

    def through(self, blocks: Sequence[int]) -> Tensor:
        """Return the gradient [N, C, H, W] at the first block's input along the path through these branches.

        `blocks` counts from 0, in the order of the network as it is built.
        """
        open_branches, number, gradient = set(blocks), self.num_blocks, self._of_logits
        for branch_x, shortcut_x, output, is_block in reversed(self._joints):
            number -= is_block
            way = shortcut_x if is_block and number not in open_branches else branch_x
            gradient = _back(output, (way,), gradient)[0]
        return gradient

    def whole(self) -> Tensor:
        """Return the gradient along all paths together."""
        gradient = self._of_logits
        for branch_x, shortcut_x, output, is_block in reversed(self._joints):
            ways = (branch_x, shortcut_x) if is_block else (branch_x,)
            gradient = torch.stack(_back(output, ways, gradient)).sum(0)
        return gradient


def path_gradients(
    tape: PathTape, lengths: PathLengths, *, draws: int, seed: int, on_length: OnLength = lambda _done, _all: None
) -> PathGradients:
    """Sample `draws` random paths of each length, fewer where there are fewer."""
    random = np.random.default_rng(seed)
    found = []
    for length in range(tape.num_blocks + 1):
        num_paths = min(draws, math.comb(tape.num_blocks, length))
        means = [
            _mean_norm(tape.through(random.choice(tape.num_blocks, size=length, replace=False).tolist()))
            for _ in range(num_paths)
        ]
        std = statistics.stdev(means) if num_paths > 1 else 0.0
        found.append(LengthGradient(length=length, mean=statistics.mean(means), std=std, num_paths=num_paths))
        on_length(length + 1, tape.num_blocks + 1)
    products = [share * one.mean for share, one in zip(lengths.shares, found, strict=True)]
    total = sum(products) or 1.0
    shares = [product / total for product in products]
    full = tape.whole()
    return PathGradients(
        num_images=len(full),
        full=_mean_norm(full),
        lengths=tuple(found),
        shares=tuple(shares),
        mean_length=sum(length * share for length, share in enumerate(shares)),
        span=carrying_span(shares) if any(shares) else Span(low=0, high=tape.num_blocks, share=1.0),
    )


def _back(output: Tensor, ways: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, ways, gradient, retain_graph=True)


def _mean_norm(gradient_NCHW: Tensor) -> float:
    """Return the mean over the images of the L2 norm of each one's gradient, in double precision."""
    return float(gradient_NCHW.double().flatten(1).norm(dim=1).mean())
