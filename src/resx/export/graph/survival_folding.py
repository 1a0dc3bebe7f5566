"""Fold survival probabilities into weights, so that an exported graph has no operator of stochastic depth.

In evaluation, a branch's output is multiplied by p (Huang et al. 2016, arXiv:1603.09382, equation 5). If the branch
ends in a layer that is affine in its parameters, p (W x + b) = (p W) x + (p b). Scaling that layer's weight and bias
therefore gives the same function without the multiplication. The parameters of a batch norm are its gamma and beta,
because its statistics are constants in evaluation. A ReLU after the layer passes a positive p on. A dense layer ends in
a convolution whose output is concatenated, so scaling changes only its new channels. A highway layer multiplies its
branch by a gate, which no such scaling can change; `resx.zoo.families.highway` derives its folding.
"""

import copy

import torch
from torch import nn

from resx.errors import ExportError
from resx.zoo.families.highway import Highway, HighwayLayer
from resx.zoo.families.stochastic_depth import StochasticBranch

_AFFINE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_survival(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in evaluation mode, in which every branch survives with probability 1.

    The copy gives the answers of `model.eval()` to rounding and has the same weight names. `model` itself is not
    changed. Folding a folded model changes nothing. Source: Huang et al. 2016 (arXiv:1603.09382), equation 5.

    Args:
        model: any module; its `StochasticBranch` modules are folded.

    Raises:
        ExportError: a branch does not end in a convolution, linear layer or batch norm with its own weights, or a
            highway layer is outside of its network.
    """
    folded = copy.deepcopy(model).eval()
    uses = _uses(folded)
    for network in [module for module in folded.modules() if isinstance(module, Highway)]:
        for layers, taker in network.folding_groups():
            _fold_highway(layers, taker, uses)
    branches = [(name, module) for name, module in folded.named_modules() if isinstance(module, StochasticBranch)]
    for name, branch in branches:
        if branch.survival < 1.0:
            _scale(name, branch.branch_end(), branch.survival, uses)
            branch.survival = 1.0
    return folded


def _fold_highway(layers: list[HighwayLayer], taker: nn.Conv2d | nn.Linear, uses: dict[int, int]) -> None:
    """Fold a stage of highway layers; `taker` is the layer that takes their output, but for pooling."""
    scale = 1.0  # the s of the derivation: the stage's true values are s times those the folded layers hold
    with torch.no_grad():
        for layer in layers:
            _require_own("highway layer", layer.transform, uses)
            _require_own("highway layer", layer.gate, uses)
            layer.gate.weight.mul_(scale)
            assert layer.transform.bias is not None
            layer.transform.bias.div_(scale)
            layer.carry /= layer.survival
            scale *= layer.survival
            layer.survival = 1.0
        if scale < 1.0:
            _require_own("highway network", taker, uses)
            taker.weight.mul_(scale)


def _scale(name: str, layer: nn.Module, factor: float, uses: dict[int, int]) -> None:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(layer, _AFFINE) or weight is None:
        raise ExportError(
            f"{name}: its branch ends in {type(layer).__name__}, which has no weights to fold {factor:.3g} into; it "
            "must end in a convolution, a linear layer or a batch norm"
        )
    shared = [p for p in (weight, bias) if p is not None and uses.get(id(p), 0) > 1]
    if shared or uses.get(id(layer), 0) > 1:
        raise ExportError(
            f"{name}: its last layer's weights are used elsewhere too, so they cannot be scaled; untie them"
        )
    with torch.no_grad():
        weight.mul_(factor)
        if bias is not None:
            bias.mul_(factor)


def _require_own(name: str, layer: nn.Module, uses: dict[int, int]) -> None:
    """Check that nothing else uses the layer or its weights."""
    if any(uses.get(id(thing), 0) > 1 for thing in (layer, *layer.parameters(recurse=False))):
        raise ExportError(
            f"{name}: its last layer's weights are used elsewhere too, so they cannot be scaled; untie them"
        )


def _uses(model: nn.Module) -> dict[int, int]:
    """Count in how many places each module and parameter hangs, by identity."""
    counts: dict[int, int] = {}
    for module in model.modules():
        own = (child for child in module._modules.values() if child is not None)
        for thing in (*own, *module.parameters(recurse=False)):
            counts[id(thing)] = counts.get(id(thing), 0) + 1
    return counts
