"""Stochastic depth: branches that are skipped at random in training (Huang et al. 2016).

A module with a branch that may be skipped is a `StochasticBranch`. In training the whole batch keeps or
loses the branch together; in evaluation every branch runs and its output is multiplied by its survival
probability, H_l = ReLU(p_l f_l(H_{l-1}) + id(H_{l-1})) (equation 5).

**Where this is not the published code** (github.com/yueatsprograms/Stochastic_Depth).
- Its shortcuts average 2x2 pixels where the shape changes; here that is the option `shortcut=pooling` of the networks.
- Its optimiser holds all weights in one vector, so a skipped block's weights decay and go on by their momentum; here
  they rest, unless the run says `skipped_blocks=move` (`resx train --skipped-blocks move`).
- Its convolutions have biases, which the batch norms behind them take away again.

torchvision and timm divide by the probability in training instead, so their weights have nothing to
fold; `resx.export.graph.survival_folding` moves ours into the branch's last layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StochasticBranch(nn.Module):
    """A block with a branch f_l that survives a training step with probability p_l (Huang et al. 2016, equation 5).

    A subclass defines the branch, the shortcut, their join, and the output without the branch. Tensors are
    [N, C, H, W]; a block may change C, H and W.
    """

    survival: float = 1.0
    """p_l in (0, 1]. 1 always keeps the branch and adds no operation."""

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return f_l(x)."""
        raise NotImplementedError

    def shortcut(self, x_NCHW: Tensor) -> Tensor:
        """Return the tensor that the branch's output is added to."""
        raise NotImplementedError

    def joined(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output with its branch."""
        raise NotImplementedError

    def skipped(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output without its branch. The branch does not run."""
        raise NotImplementedError

    def apart(self, branch_x_NCHW: Tensor, shortcut_x_NCHW: Tensor) -> Tensor:
        """Return the block's output for different inputs of branch and shortcut; `joined(x)` is `apart(x, x)`.

        The gradients of the two inputs are the gradients through the branch alone and the shortcut alone.
        """
        raise NotImplementedError

    def branch_end(self) -> nn.Module:
        """Return the layer that folding scales.

        It is the last layer of the branch, or the last one before a ReLU: p ReLU(z) = ReLU(p z) for p > 0.
        """
        raise NotImplementedError

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return H_l for H_{l-1} = x."""
        if self.training and not self.survives():
            return self.skipped(x_NCHW)
        return self.joined(x_NCHW)

    def survives(self) -> bool:
        """Draw whether the branch survives this training step, for the whole batch."""
        return self.survival >= 1.0 or bool(torch.rand(()) < self.survival)

    def expected(self, branch: Tensor) -> Tensor:
        """Return a branch's output, which evaluation multiplies by p_l (its expectation)."""
        return branch if self.training or self.survival >= 1.0 else self.survival * branch


def set_survival(branches: Sequence[StochasticBranch], probabilities: Sequence[float]) -> None:
    """Set the survival probabilities of the branches, first to last."""
    for branch, survival in zip(branches, probabilities, strict=True):
        branch.survival = survival
