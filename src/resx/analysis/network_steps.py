"""A network as a sequence of steps, some of which are blocks that a lesion can take out.

    step    forward                                            lesioned
    stem    what is before the first block                     -
    block   the block's output                                 what is left without its branch
    glue    what stands between blocks (pooling, transitions)  -
    head    what is behind the last block                      -

Without its branch a residual block leaves its shortcut, a dense layer zeros in the place of its features, a
highway layer its input. A layer of a network without shortcuts leaves its input; where it changes the shape that
is impossible, and a shortcut without parameters stands in, option A of He et al. 2015: every s-th pixel, channels
of zeros added or the last ones cut off. Steps whose block changes the shape are marked, as in Veit et al. 2016: of
a downsampling block the shortcut, often with weights of its own, remains.

Shapes: a step takes and gives [N, C, H, W]; the head gives logits [N, classes].
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.errors import UsageError
from resx.zoo.families.network import Network
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec

Prepare: TypeAlias = Callable[[nn.Module], nn.Module]
"""Makes of a step in evaluation mode one that computes the same faster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A part of a network; parts in their order compute what the network computes."""

    whole: nn.Module
    block: int = 0
    """The block's number, from 1 and counted in the network that nothing was dropped from; 0 is no block."""
    name: str = ""
    """The block's name in the network."""
    lesioned: nn.Module | None = None
    """What is left of the block without its branch; None for what is no block."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """[C, H, W] of input and output."""
    appends: bool = False
    """Whether the block puts its features behind its input, which it leaves as it is: a dense layer."""

    @property
    def changes_shape(self) -> bool:
        """Whether input and output differ in shape; channels that a dense layer appends are no such change."""
        return self.shapes[0] != self.shapes[1] and not self.appends

    @property
    def residual(self) -> StochasticBranch | None:
        """The block as a branch with a shortcut, if it is one."""
        return self.whole.block if isinstance(self.whole, Joined) else None


class Joined(nn.Module):
    """A residual block with its branch."""

    def __init__(self, block: StochasticBranch) -> None:
        super().__init__()
        self.block = block

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output."""
        return self.block.joined(x_NCHW)


class Skipped(nn.Module):
    """A residual block without its branch."""

    def __init__(self, block: StochasticBranch) -> None:
        super().__init__()
        self.block = block

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return what is left."""
        return self.block.skipped(x_NCHW)


class StandIn(nn.Module):
    """x brought to another shape without parameters: subsampled, channels of zeros added or channels cut off."""

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.extra_channels = after[0] - before[0]
        self.stride = -(-before[1] // after[1])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return x at the other shape."""
        return F.pad(x_NCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


def steps_of(network: nn.Module, spec: ModelSpec) -> list[Step]:
    """Take a network in evaluation mode apart; the steps share its weights.

    Raises:
        UsageError: it is not of this project's families.
    """
    assert not network.training
    if not isinstance(network, Network):
        raise UsageError(f"{type(network).__name__}: unknown block structure; use a run of one of resx's families")
    names = {id(module): name for name, module in network.named_modules()}
    kept = iter(spec.kept_blocks)
    steps, x_NCHW = [], torch.zeros(1, 3, spec.image_size, spec.image_size, device=next(network.parameters()).device)
    number = 0
    with torch.inference_mode():
        for part in network.parts():
            whole = Joined(part.module) if isinstance(part.module, StochasticBranch) else part.module
            before, x_NCHW = tuple(x_NCHW.shape[1:]), whole.eval()(x_NCHW)
            step = Step(whole=whole, shapes=(before, tuple(x_NCHW.shape[1:])))
            if part.is_block:
                number = next(kept) if isinstance(part.module, StochasticBranch) else number + 1
                name = names.get(id(part.module), part.name)
                step = replace(step, block=number, name=name, appends=part.appends)
                step = replace(step, lesioned=_lesion(part.module, step))
            steps.append(step)
    return steps


def prepare_steps(steps: list[Step], prepare: Prepare) -> list[Step]:
    """Return the steps in a form that computes the same faster: as `prepare` makes them, channels last."""
    return [
        replace(
            step,
            whole=_fast(step.whole, prepare),
            lesioned=None if step.lesioned is None else _fast(step.lesioned, prepare),
        )
        for step in steps
    ]


def require_residual_blocks(spec: ModelSpec, purpose: str) -> None:
    """Check that a network has blocks with a way around them.

    Raises:
        UsageError: it has none.
    """
    if spec.architecture.undroppable:
        raise UsageError(
            f"{spec.name}: {spec.architecture.undroppable}, and {purpose} needs residual blocks; use a ResNet, "
            "pre-activation ResNet, ResNeXt, DenseNet or highway network"
        )


def _fast(module: nn.Module, prepare: Prepare) -> nn.Module:
    return prepare(copy.deepcopy(module).eval()).to(memory_format=torch.channels_last)


def _lesion(module: nn.Module, step: Step) -> nn.Module:
    if isinstance(module, StochasticBranch):
        return Skipped(module).eval()
    return StandIn(*step.shapes).eval() if step.changes_shape else nn.Identity()
