"""The stages of a network, which are frozen and whose learning rates differ: stem, the family's stages, head.

    family                stages
    ResNet, pre-activation, ResNeXt   stem, layer1, layer2, ...    as torchvision's modules
    DenseNet              stem, denseblock1 (with transition1), ...
    VGG                   stage1 (up to the first pooling), ..., classifier (the hidden linear layers)
    highway               stage1, stage2, ...

The head is the last linear layer alone, which a new number of classes replaces. What stands between the last stage and
the head (a batch norm, a 1x1 convolution) belongs to the last stage.

Frozen stages keep their weights, and are in evaluation mode: their batch norms keep their statistics, every branch of
stochastic depth runs, and dropout is off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from resx.errors import UsageError, nearest
from resx.zoo.building import build_from_spec
from resx.zoo.families.vgg import VGG
from resx.zoo.spec import ModelSpec
from resx.zoo.weights.weight_names import head_of

HEAD, ALL = "head", "all"
_BEGINNING = re.compile(r"(?:.*\.)?(layer\d+|denseblock\d+)|stages\.(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of a network that is frozen, or learns, as a whole."""

    name: str
    modules: tuple[nn.Module, ...]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the stage."""
        for module in self.modules:
            yield from module.parameters()


def stages_of(network: nn.Module) -> tuple[Stage, ...]:
    """Return the stages from the image to the head; every parameter is of exactly one."""
    head = head_of(network.state_dict())
    found: dict[str, list[nn.Module]] = {}
    for name, module in _units(network):
        found.setdefault(name, []).append(module)
    found.pop(HEAD, None)
    stages = [Stage(name=name, modules=tuple(modules)) for name, modules in found.items()]
    return (
        *(stage for stage in stages if any(True for _ in stage.parameters())),
        Stage(name=HEAD, modules=(network.get_submodule(head),)),
    )


def frozen_stages(stages: Sequence[Stage], freeze: str) -> tuple[Stage, ...]:
    """Return the stages up to the one that `freeze` names, all but the head for `all`, none for an empty name.

    Raises:
        UsageError: there is no such stage.
    """
    names = [stage.name for stage in stages[:-1]]
    if not freeze:
        return ()
    if freeze == ALL:
        return tuple(stages[:-1])
    if freeze not in names:
        near = nearest(freeze, [*names, ALL])
        raise UsageError(f"--freeze {freeze}{near}: give one of {', '.join(names)}, {ALL}")
    return tuple(stages[: names.index(freeze) + 1])


def require_stage(spec: ModelSpec, freeze: str) -> None:
    """Check that a network has the stage that is to be frozen.

    Raises:
        UsageError: it has not.
    """
    if freeze:
        with torch.device("meta"):
            frozen_stages(stages_of(build_from_spec(spec, seed=None)), freeze)


def rates_of(stages: Sequence[Stage], layer_decay: float) -> Mapping[nn.Parameter, float]:
    """Return each parameter's share of the learning rate: 1 in the head, `layer_decay` times less with each stage."""
    last = len(stages) - 1
    return {
        parameter: layer_decay ** (last - number)
        for number, stage in enumerate(stages)
        for parameter in stage.parameters()
    }


def _units(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of the stage and the module for every module that is in one stage, first to last."""
    if isinstance(network, VGG):
        yield from _vgg_units(network)
        return
    stage, head = "stem", head_of(network.state_dict())
    for name, module in _flat_children(network):
        if begins := _BEGINNING.fullmatch(name):
            stage = begins[1] or f"stage{int(begins[2]) + 1}"
        yield HEAD if name == head else stage, module


def _flat_children(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's children with their names, and of a container of stages its children."""
    for name, child in network.named_children():
        if name in ("features", "stages"):
            yield from ((f"{name}.{part}", module) for part, module in child.named_children())
        else:
            yield name, child


def _vgg_units(network: VGG) -> Iterator[tuple[str, nn.Module]]:
    number = 1
    for module in network.features.children():
        yield f"stage{number}", module
        number += isinstance(module, nn.MaxPool2d)
    *hidden, _head = network.classifier.children()
    yield from (("classifier", module) for module in hidden)
