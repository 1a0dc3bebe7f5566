"""Densely connected networks: Huang et al. 2017 (arXiv:1608.06993), table 1.

State-dict keys are torchvision's (`features.denseblockB.denselayerL...`, `classifier`).

Stochastic depth is not in the paper; here a skipped layer contributes zeros in the place of its k
channels, and evaluation scales them by p_l, their expectation. The scaled tensor is the output of the
layer's last convolution, which has no bias, so folding p_l into that convolution's weights is exact.
"""

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.zoo.spec import DenseNetArchitecture
from resx.zoo.stochastic_depth import StochasticBranch, set_survival


class DenseLayer(StochasticBranch):
    """BN-ReLU-Conv1x1-BN-ReLU-Conv3x3 (DenseNet-B), its k channels appended to its input."""

    def __init__(self, in_channels: int, *, growth_rate: int, bottleneck: int) -> None:
        super().__init__()
        inner = bottleneck * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth_rate, 3, padding=1, bias=False)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return the layer's new features [N, k, H, W]."""
        x_NCHW = self.conv1(F.relu(self.norm1(x_NCHW)))
        return self.conv2(F.relu(self.norm2(x_NCHW)))

    def branch_end(self) -> nn.Module:
        """Return the last convolution."""
        return self.conv2

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return x with the new features behind it: [N, C + k, H, W]."""
        if not self.training:
            return torch.cat([x_NCHW, self.expected(self.branch(x_NCHW))], 1)
        if self.survives():
            return torch.cat([x_NCHW, self.branch(x_NCHW)], 1)
        return F.pad(x_NCHW, (0, 0, 0, 0, 0, self.conv2.out_channels))


class Transition(nn.Sequential):
    """Between dense blocks: half the channels (compression 0.5), half the image."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                norm=nn.BatchNorm2d(in_channels),
                relu=nn.ReLU(inplace=True),
                conv=nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
                pool=nn.AvgPool2d(2),
            )
        )


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, average pooling, linear layer.

    Input [N, 3, H, W] normalised floats; output [N, classes] logits.
    """

    def __init__(self, architecture: DenseNetArchitecture, *, classes: int, survival: float) -> None:
        super().__init__()
        channels = architecture.stem_width
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
                norm0=nn.BatchNorm2d(channels),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        for number, depth in enumerate(architecture.block_depths, start=1):
            block = nn.Sequential()
            for index in range(1, depth + 1):
                layer = DenseLayer(channels, growth_rate=architecture.growth_rate, bottleneck=architecture.bottleneck)
                block.add_module(f"denselayer{index}", layer)
                channels += architecture.growth_rate
            self.features.add_module(f"denseblock{number}", block)
            if number < len(architecture.block_depths):
                self.features.add_module(f"transition{number}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)

        _initialise(self)
        set_survival(list(self.blocks()), survival)

    def blocks(self) -> Iterator[DenseLayer]:
        """Yield the dense layers, first to last."""
        return (module for module in self.modules() if isinstance(module, DenseLayer))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        x_NCHW = F.relu(self.features(x_NCHW))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x_NCHW, 1), 1))


def _initialise(model: nn.Module) -> None:
    """As torchvision: He initialisation for convolutions, zero bias for the classifier."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
