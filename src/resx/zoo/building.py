"""Build a network from its spec, and count its parameters and multiply-adds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resx.errors import UsageError
from resx.zoo.architectures import (
    Architecture,
    DenseNetArchitecture,
    ForeignArchitecture,
    HighwayArchitecture,
    PreResNetArchitecture,
    ResNetArchitecture,
)
from resx.zoo.families.densenet import DenseNet
from resx.zoo.families.highway import Highway
from resx.zoo.families.network import Network
from resx.zoo.families.preresnet import PreResNet
from resx.zoo.families.resnet import ResNet
from resx.zoo.families.stochastic_depth import StochasticBranch, set_survival
from resx.zoo.families.vgg import VGG
from resx.zoo.spec import ModelSpec, survival_probabilities


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSize:
    """The size of a network."""

    num_parameters: int
    macs: int
    """Multiply-adds of convolutions and linear layers for one image."""


def build_from_spec(spec: ModelSpec, *, seed: int | None) -> Network:
    """Build the network of a spec with random weights, in training mode.

    It maps images [N, 3, H, W], float32 and normalized, to logits [N, classes].

    Args:
        spec: architecture, number of classes, survival schedule and dropped blocks.
        seed: seed of the weights. None uses torch's global generator. A number gives the same weights every time and
            does not change the global generator.

    Raises:
        UsageError: the spec describes a foreign network, which resx cannot build.
    """
    with seed_torch(seed):
        network = _network(spec.architecture, spec.classes)
    branches = [block for block in network.blocks() if isinstance(block, StochasticBranch)]
    set_survival(branches, survival_probabilities(len(branches), spec.survival, spec.survival_schedule))
    drop_blocks(network, [branches[block - 1] for block in spec.dropped_blocks])
    return network


def drop_blocks(network: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Remove blocks from a network. The other blocks keep their names, so their weights still fit."""
    dropped = {id(block) for block in blocks}
    found = [
        (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
        if id(child) in dropped
    ]
    for parent, name in found:
        delattr(parent, name)  # `del parent[i]` would number the blocks behind it anew


@contextlib.contextmanager
def seed_torch(seed: int | None) -> Iterator[None]:
    """Seed torch inside the `with` block, and restore its global generator afterwards; None does nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _network(architecture: Architecture, classes: int) -> Network:
    if isinstance(architecture, ResNetArchitecture):
        return ResNet(architecture, classes=classes)
    if isinstance(architecture, PreResNetArchitecture):
        return PreResNet(architecture, classes=classes)
    if isinstance(architecture, DenseNetArchitecture):
        return DenseNet(architecture, classes=classes)
    if isinstance(architecture, HighwayArchitecture):
        return Highway(architecture, classes=classes)
    if isinstance(architecture, ForeignArchitecture):
        raise UsageError(f"{architecture.source}: cannot be built from its description; pass its name to `resx export`")
    return VGG(architecture, classes=classes)


def count(spec: ModelSpec) -> NetworkSize:
    """Count parameters and multiply-adds without allocating or computing anything (torch's meta device)."""
    with torch.device("meta"):
        model = build_from_spec(spec, seed=None).eval()
        image = torch.empty(1, 3, spec.image_size, spec.image_size)
    with FlopCounterMode(display=False) as counter:
        model(image)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return NetworkSize(num_parameters=num_parameters, macs=counter.get_total_flops() // 2)
