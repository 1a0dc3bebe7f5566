"""The Python API: what `import resx` gives.

torch is imported when a function is called, not before, so that the client commands run where it is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def build(name: str, *, classes: int | None = None, survival: float = 1.0, seed: int | None = None) -> nn.Module:
    """Build a variant with random weights, in training mode.

    Args:
        name: one of `list_models()`.
        classes: number of classes; None takes the variant's own (1000 for ImageNet, 10 for CIFAR).
        survival: p_L, the probability in (0, 1] that the last block survives a training step; earlier
            blocks survive more often, along a straight line from 1 (Huang et al. 2016, section 3).
            1 builds a constant-depth network.
        seed: of the weights. None continues torch's global generator; a number leaves it untouched.

    Raises:
        UsageError: the name is unknown, or a value is out of its range.
    """
    from resx.zoo import building, catalog

    spec = catalog.variant(name).spec.with_changes(classes=classes, survival=survival)
    return building.build_from_spec(spec, seed=seed)


def fold(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in evaluation mode whose survival probabilities are part of its weights.

    See `resx.export.graph.survival_folding.fold_survival`.
    """
    from resx.export.graph.survival_folding import fold_survival

    return fold_survival(model)


def list_models() -> list[str]:
    """Return the names that `build` knows, in the order of their families."""
    from resx.zoo import catalog

    return list(catalog.VARIANTS)
