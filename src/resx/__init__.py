"""resx: from a name of the ResNet family to a measured, served model.

The three functions below are the Python API. They import torch when called, not when this package is
imported, so that the client commands run where torch is not installed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from resx._version import __version__

if TYPE_CHECKING:
    from torch import nn

__all__ = ["__version__", "build", "fold", "list_models"]

# Nothing is reported to anybody. onnxruntime's wheel looks up a host of Microsoft's and writes a device id into the
# home folder as soon as it is loaded; its own `disable_telemetry_events()` comes too late for both. It stands here so
# that it is set before any module of resx loads it, and in all that is started from here: workers, Triton, its stubs.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


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

    See `resx.export.fold.fold_survival`.
    """
    from resx.export.fold import fold_survival

    return fold_survival(model)


def list_models() -> list[str]:
    """Return the names that `build` knows, in the order of their families."""
    from resx.zoo import catalog

    return list(catalog.VARIANTS)
