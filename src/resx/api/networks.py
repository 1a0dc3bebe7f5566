"""Networks: by name with random weights, and folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def build(name: str, *, classes: int | None = None, survival: float = 1.0, seed: int | None = None) -> nn.Module:
    """Build a variant with random weights, in training mode.

    The network maps images [N, 3, H, W], float32 and normalized per channel, to logits [N, classes]. Weight names are
    torchvision's for every network that torchvision has.

    Args:
        name: one of `list_models()`.
        classes: number of classes, 2 or more. None uses the variant's own: 1000 for ImageNet, 10 for CIFAR.
        survival: p_L in (0, 1], the probability that the last of L blocks survives a training step. Block l survives
            with p_l = 1 - l/L (1 - p_L) (Huang et al. 2016, arXiv:1603.09382, section 3). 1 means constant depth.
        seed: seed of the weights. None uses torch's global generator. A number does not change the global generator.

    Returns:
        A `torch.nn.Module` in training mode, on the CPU.

    Raises:
        UsageError: the name is unknown, a value is out of range, or `survival` is below 1 and no block can be dropped.
    """
    from resx.zoo import building, catalog

    spec = catalog.variant(name).spec.with_changes(classes=classes, survival=survival)
    return building.build_from_spec(spec, seed=seed)


def fold(model: nn.Module) -> nn.Module:
    """Fold the survival probabilities of stochastic depth into the weights.

    In evaluation, a block multiplies its branch by p (Huang et al. 2016, arXiv:1603.09382, equation 5). Folding scales
    the last layer of the branch instead, so the network has no multiplication and gives the same logits to rounding.

    Args:
        model: a network of `build`, or a module that contains its blocks. It is not changed.

    Returns:
        A copy in evaluation mode with the same weight names, in which every block survives with probability 1.

    Raises:
        ExportError: a branch does not end in a convolution, linear layer or batch norm with its own weights.
    """
    from resx.export.graph.survival_folding import fold_survival

    return fold_survival(model)


def list_models() -> list[str]:
    """Return the names of all variants that `build` accepts, grouped by family."""
    from resx.zoo import catalog

    return list(catalog.VARIANTS)
