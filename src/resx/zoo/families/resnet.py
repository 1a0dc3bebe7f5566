"""Residual networks: He et al. 2015 (arXiv:1512.03385), table 1 for ImageNet, section 4.2 for CIFAR.

State-dict keys are torchvision's (`conv1`, `bn1`, `layerS.B...`, `fc`), so published weights load
unchanged. The CIFAR networks have three stages of 16, 32 and 64 channels, zero-padded shortcuts
(option A) and the same key scheme. Without its shortcuts a ResNet is the plain network of that paper; with
groups in its bottlenecks it is ResNeXt (`resx.zoo.families.resnext`).

**Where this is not the paper.**
- A bottleneck's stride is on its 3x3 convolution (torchvision's "v1.5"); the paper has it on the first 1x1.
- The linear layer begins with PyTorch's uniform weights and bias; the paper says nothing of it.
- `shortcut=pooling` is not in this paper: it is the shortcut of stochastic depth's published code.
- The ImageNet networks carry the accuracy of torchvision's weights, which were trained by another recipe.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resx.zoo.architectures import ResNetArchitecture
from resx.zoo.families.initialisation import initialise_convolutions
from resx.zoo.families.network import Network, NetworkPart, glue
from resx.zoo.families.residual_blocks import (
    BasicBlock,
    Bottleneck,
    BottleneckShape,
    PaddingShortcut,
    PlainBlock,
    PoolingShortcut,
    ResidualBlock,
    projection_shortcut,
)
from resx.zoo.families.resnext import FORMS


class ResNet(Network):
    """Stem, stages of residual blocks, average pooling, linear layer.

    Input: normalized floats [N, 3, H, W]. Output: logits [N, classes].
    """

    def __init__(self, architecture: ResNetArchitecture, *, classes: int) -> None:
        super().__init__()
        width = architecture.width
        if architecture.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if architecture.stem == "imagenet" else nn.Identity()

        channels = width
        self.stage_names = [f"layer{number}" for number in range(1, len(architecture.stage_depths) + 1)]
        for number, (name, depth) in enumerate(zip(self.stage_names, architecture.stage_depths, strict=True)):
            stage, channels = _stage(architecture, channels, number, depth)
            self.add_module(name, stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

        initialise_convolutions(self)

    def blocks(self) -> Iterator[ResidualBlock | PlainBlock]:
        """Yield the blocks, first to last."""
        return (module for module in self.modules() if isinstance(module, ResidualBlock | PlainBlock))

    def parts(self) -> Iterator[NetworkPart]:
        """Yield stem, blocks and head; of a plain block its two layers are blocks of their own."""
        yield glue(self.conv1, self.bn1, self.relu, self.maxpool)
        for stage in self.stage_names:
            for index, block in self.get_submodule(stage).named_children():
                if isinstance(block, PlainBlock):
                    yield from block.parts(f"{stage}.{index}")
                else:
                    yield NetworkPart(module=block, is_block=True)
        yield glue(self.avgpool, nn.Flatten(), self.fc)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        x_NCHW = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        for name in self.stage_names:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        return self.fc(torch.flatten(self.avgpool(x_NCHW), 1))


def _stage(architecture: ResNetArchitecture, in_channels: int, number: int, depth: int) -> tuple[nn.Sequential, int]:
    """Build one stage; the first block changes the shape. Returns it and its number of output channels."""
    expansion = BasicBlock.expansion if architecture.block == "basic" else Bottleneck.expansion
    out_channels = architecture.width * 2**number * expansion
    blocks = []
    for index in range(depth):
        stride = 2 if index == 0 and number > 0 else 1
        shape = BottleneckShape(
            in_channels=in_channels,
            inner=architecture.inner_width * 2**number,
            out_channels=out_channels,
            groups=architecture.cardinality,
            stride=stride,
        )
        blocks.append(_block(architecture, shape))
        in_channels = out_channels
    return nn.Sequential(*blocks), in_channels


def _block(architecture: ResNetArchitecture, shape: BottleneckShape) -> ResidualBlock | PlainBlock:
    if architecture.shortcut == "none":
        return PlainBlock(shape.in_channels, shape.out_channels, stride=shape.stride)
    shortcut = _shortcut(architecture, shape.in_channels, shape.out_channels, shape.stride)
    if architecture.block == "basic":
        return BasicBlock(shape.in_channels, shape.out_channels, stride=shape.stride, shortcut=shortcut)
    return FORMS[architecture.form](shape, shortcut)


def _shortcut(architecture: ResNetArchitecture, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    if architecture.shortcut == "padding":
        return PaddingShortcut(in_channels, out_channels, stride=stride)
    if architecture.shortcut == "pooling":
        return PoolingShortcut(in_channels, out_channels, stride=stride)
    return projection_shortcut(in_channels, out_channels, stride=stride)
