"""Pre-activation residual networks: He et al. 2016 (arXiv:1603.05027), with the five units of its figure 4.

A unit is a list of steps in the order of the figure, cut where the addition stands:

    variant                  steps of a layer    after the addition   last layer of the branch
    original                 conv bn relu        relu                 batch norm
    bn_after_addition        conv bn relu        bn relu              convolution
    relu_before_addition     conv bn relu        -                    batch norm, then ReLU
    relu_only_preactivation  relu conv bn        -                    batch norm
    full_preactivation       bn relu conv        -                    convolution

What folding scales is that last layer. The convolutions have no bias, so p (W * x) = (p W) * x; a ReLU lets a
positive p through. In `bn_after_addition` the batch norm acts on shortcut + p branch and stays as it is.

As in the paper's appendix, the first unit finds its pre-activation already done by the stem's, a unit that
changes the shape shares its pre-activation between branch and projection, and what the variant puts before a
convolution comes once more after the last unit. The appendix names projections for bottlenecks alone, so the CIFAR
networks of basic blocks keep option A, which has no weights (`shortcut`).

**Where this is not the paper.**
- A bottleneck's stride is on its 3x3 convolution, as in the ResNets here and in fb.resnet.torch; the authors'
  resnet-1k-layers strides in the first 1x1. Both have the same number of parameters.
- The projection has a batch norm where the branch ends in one, which the paper leaves open.
- Option A takes the shared pre-activation too, as fb.resnet.torch does; the appendix says it of projections only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resx.zoo.architectures import BlockVariant, PreResNetArchitecture, Shortcut
from resx.zoo.families.initialisation import initialise_convolutions
from resx.zoo.families.network import Network, NetworkPart, glue
from resx.zoo.families.residual_blocks import PaddingShortcut, PoolingShortcut
from resx.zoo.families.stochastic_depth import StochasticBranch


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOrder:
    """Where batch norm and ReLU stand in a unit."""

    layer: tuple[str, str, str]
    num_after_addition: int
    """How many of the unit's last steps come after the addition."""

    @property
    def before_conv(self) -> tuple[str, ...]:
        """The pre-activation: what comes before a layer's convolution."""
        return self.layer[: self.layer.index("conv")]


ORDERS: dict[BlockVariant, StepOrder] = {
    "original": StepOrder(layer=("conv", "bn", "relu"), num_after_addition=1),
    "bn_after_addition": StepOrder(layer=("conv", "bn", "relu"), num_after_addition=2),
    "relu_before_addition": StepOrder(layer=("conv", "bn", "relu"), num_after_addition=0),
    "relu_only_preactivation": StepOrder(layer=("relu", "conv", "bn"), num_after_addition=0),
    "full_preactivation": StepOrder(layer=("bn", "relu", "conv"), num_after_addition=0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitShape:
    """Channels and place of a unit."""

    in_channels: int
    width: int
    """Of the 3x3 convolutions."""
    stride: int
    is_bottleneck: bool
    is_first: bool
    """Of the network: the stem has normalised and activated its input."""
    shortcut: Shortcut = "projection"
    """What it is where the shape changes."""

    @property
    def out_channels(self) -> int:
        """Of the unit."""
        return 4 * self.width if self.is_bottleneck else self.width

    def convolutions(self) -> list[nn.Conv2d]:
        """Make the branch's convolutions; a bottleneck's stride is on the 3x3, as in `residual_blocks`."""
        if not self.is_bottleneck:
            return [_conv(3, self.in_channels, self.width, self.stride), _conv(3, self.width, self.width)]
        return [
            _conv(1, self.in_channels, self.width),
            _conv(3, self.width, self.width, self.stride),
            _conv(1, self.width, self.out_channels),
        ]


class PreActivationUnit(StochasticBranch):
    """after(shortcut(entry(x)) + branch(entry(x))), the steps in the order of its variant."""

    def __init__(self, shape: UnitShape, order: StepOrder) -> None:
        super().__init__()
        self.relu = nn.ReLU()  # never in place: its input may be the shortcut's too
        changes_shape = shape.stride != 1 or shape.in_channels != shape.out_channels
        convolutions = shape.convolutions()
        steps: list[str] = []
        for number, conv in enumerate(convolutions, start=1):
            done_before = shape.is_first and number == 1 and bool(order.before_conv)
            kinds = order.layer[len(order.before_conv) if done_before else 0 :]
            steps += ["relu" if kind == "relu" else f"{kind}{number}" for kind in kinds]
            self.add_module(f"conv{number}", conv)
            if f"bn{number}" in steps:
                normalised = conv.in_channels if "bn" in order.before_conv else conv.out_channels
                self.add_module(f"bn{number}", nn.BatchNorm2d(normalised))
        num_entry = steps.index("conv1") if changes_shape else 0
        end = len(steps) - order.num_after_addition
        self.entry_steps, self.branch_steps, self.after_steps = steps[:num_entry], steps[num_entry:end], steps[end:]
        ends_in_bn = _last_layer(self.branch_steps).startswith("bn")
        self.downsample = _reshaping(shape, with_bn=ends_in_bn) if changes_shape else None

    def entry(self, x_NCHW: Tensor) -> Tensor:
        """Return what branch and shortcut both take: x, or x pre-activated where the shape changes."""
        return self._run(self.entry_steps, x_NCHW)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return f_l of `entry`'s output."""
        return self._run(self.branch_steps, x_NCHW)

    def shortcut(self, x_NCHW: Tensor) -> Tensor:
        """Return `entry`'s output itself, or brought to the shape of the branch's output."""
        return x_NCHW if self.downsample is None else self.downsample(x_NCHW)

    def joined(self, x_NCHW: Tensor) -> Tensor:
        """Return the unit's output with its branch."""
        x_NCHW = self.entry(x_NCHW)
        shortcut = self.shortcut(x_NCHW)
        return self._run(self.after_steps, self.expected(self.branch(x_NCHW)) + shortcut)

    def skipped(self, x_NCHW: Tensor) -> Tensor:
        """Return the unit's output without its branch."""
        return self._run(self.after_steps, self.shortcut(self.entry(x_NCHW)))

    def apart(self, branch_x_NCHW: Tensor, shortcut_x_NCHW: Tensor) -> Tensor:
        """Return the unit's output where branch and shortcut each pre-activate an input of their own."""
        branch = self.expected(self.branch(self.entry(branch_x_NCHW)))
        return self._run(self.after_steps, branch + self.shortcut(self.entry(shortcut_x_NCHW)))

    def branch_end(self) -> nn.Module:
        """Return the last layer of the branch that has weights."""
        return self.get_submodule(_last_layer(self.branch_steps))

    def _run(self, steps: list[str], x_NCHW: Tensor) -> Tensor:
        for name in steps:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        return x_NCHW


class PreResNet(Network):
    """Stem, stages of units, last activation, average pooling, linear layer.

    Input: normalized floats [N, 3, H, W]. Output: logits [N, classes].
    """

    def __init__(self, architecture: PreResNetArchitecture, *, classes: int) -> None:
        super().__init__()
        order, channels = ORDERS[architecture.variant], architecture.width
        is_imagenet = architecture.stem == "imagenet"
        self.conv1 = (
            nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False) if is_imagenet else _conv(3, 3, channels)
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if is_imagenet else nn.Identity()
        self.stage_names = [f"layer{number}" for number in range(1, len(architecture.stage_depths) + 1)]
        for number, (name, depth) in enumerate(zip(self.stage_names, architecture.stage_depths, strict=True)):
            stage = nn.Sequential()
            for index in range(depth):
                shape = UnitShape(
                    in_channels=channels,
                    width=architecture.width * 2**number,
                    stride=2 if number and not index else 1,
                    is_bottleneck=architecture.block == "bottleneck",
                    is_first=number == index == 0,
                    shortcut=architecture.shortcut,
                )
                stage.append(PreActivationUnit(shape, order))
                channels = shape.out_channels
            self.add_module(name, stage)
        self.last_bn = nn.BatchNorm2d(channels) if "bn" in order.before_conv else nn.Identity()
        self.last_relu = nn.ReLU() if "relu" in order.before_conv else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialise_convolutions(self)

    def blocks(self) -> Iterator[PreActivationUnit]:
        """Yield the units, first to last."""
        return (module for module in self.modules() if isinstance(module, PreActivationUnit))

    def parts(self) -> Iterator[NetworkPart]:
        """Yield stem, units and head."""
        yield glue(self.conv1, self.bn1, self.relu, self.maxpool)
        for stage in self.stage_names:
            yield from (NetworkPart(module=unit, is_block=True) for unit in self.get_submodule(stage).children())
        yield glue(self.last_bn, self.last_relu, self.avgpool, nn.Flatten(), self.fc)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        x_NCHW = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        for name in self.stage_names:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        x_NCHW = self.last_relu(self.last_bn(x_NCHW))
        return self.fc(torch.flatten(self.avgpool(x_NCHW), 1))


def _conv(kernel: int, in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def _reshaping(shape: UnitShape, *, with_bn: bool) -> nn.Module:
    """Return the shortcut of a unit that changes the shape."""
    if shape.shortcut == "padding":
        return PaddingShortcut(shape.in_channels, shape.out_channels, stride=shape.stride)
    if shape.shortcut == "pooling":
        return PoolingShortcut(shape.in_channels, shape.out_channels, stride=shape.stride)
    projection = nn.Sequential(_conv(1, shape.in_channels, shape.out_channels, shape.stride))
    if with_bn:
        projection.append(nn.BatchNorm2d(shape.out_channels))
    return projection


def _last_layer(steps: list[str]) -> str:
    return next(name for name in reversed(steps) if name != "relu")
