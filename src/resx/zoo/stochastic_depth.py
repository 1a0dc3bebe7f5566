"""Stochastic depth: branches that are skipped at random in training (Huang et al. 2016).

A module with a branch that may be skipped is a `StochasticBranch`. In training the whole batch keeps or
loses the branch together; in evaluation every branch runs and its output is multiplied by its survival
probability, H_l = ReLU(p_l f_l(H_{l-1}) + id(H_{l-1})) (equation 5).

torchvision and timm divide by the probability in training instead, so their weights have nothing to
fold; `resx.export.fold` moves ours into the branch's last layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resx.zoo.spec import survival_probabilities


class StochasticBranch(nn.Module):
    """A module that adds the output of a branch, which survives a training step with some probability."""

    survival: float = 1.0
    """p_l in (0, 1]; 1 always keeps the branch and adds no operation."""

    def branch_end(self) -> nn.Module:
        """Return the layer whose output is the branch's output; folding scales its weights."""
        raise NotImplementedError

    def survives(self) -> bool:
        """Draw whether the branch survives this training step, for the whole batch."""
        return self.survival >= 1.0 or bool(torch.rand(()) < self.survival)

    def expected(self, branch: Tensor) -> Tensor:
        """Scale a branch's output to its expectation over training, as evaluation needs it."""
        return branch if self.survival >= 1.0 else self.survival * branch


def set_survival(branches: Sequence[StochasticBranch], last: float) -> None:
    """Give the branches, first to last, the linearly decaying survival probabilities that end in `last`."""
    for branch, survival in zip(branches, survival_probabilities(len(branches), last), strict=True):
        branch.survival = survival
