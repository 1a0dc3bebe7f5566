"""torch.compile for training. The network itself stays as it was: weights keep their names, evaluation is eager.

A network whose blocks are dropped at random is not compiled whole: PyTorch would break the graph at every draw, compile
each block again for each outcome, and draw from another generator than uncompiled code does. So the draws stay
outside, and what a block computes with its branch is compiled: equal blocks share the code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from resx.errors import MissingCapability, first_line
from resx.zoo.families.stochastic_depth import StochasticBranch

Forward: TypeAlias = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def compiled_forward(model: nn.Module, *, backend: str = "inductor") -> Iterator[Forward]:
    """Give a function that computes what the model does in training; compiled as it is called."""
    dropped = [block for block in model.modules() if isinstance(block, StochasticBranch) and block.survival < 1]
    if not dropped:
        yield torch.compile(model, dynamic=False, backend=backend)
        return
    # One entry per shape of block; DenseNet's layers all differ.
    with torch._dynamo.config.patch(recompile_limit=8 + 2 * len(dropped)):
        compiled = {block: torch.compile(block.joined, dynamic=False, backend=backend) for block in dropped}

        def forward(x_NCHW: Tensor) -> Tensor:
            for block, joined in compiled.items():
                block.joined = joined  # type: ignore[method-assign]
            try:
                return model(x_NCHW)
            finally:
                for block in compiled:
                    del block.joined

        yield forward


def require_compiler(place: torch.device) -> None:
    """Check that torch.compile works on a device, by using it.

    Raises:
        MissingCapability: it does not, for want of a compiler for instance.
    """
    try:
        torch.compile(_double)(torch.ones(4, device=place))
    except Exception as error:  # each of its backends has errors of its own
        raise MissingCapability(
            f"--compile: torch.compile does not work here ({first_line(error)}); it needs a C++ compiler, "
            "and Triton on a GPU; or remove --compile"
        ) from error


def _double(x: Tensor) -> Tensor:
    return x * 2
