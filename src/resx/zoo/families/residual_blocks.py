"""Residual blocks as figures 2 and 5 of He et al. 2015 draw them; torchvision's names for the weights.

A block is ReLU(shortcut(x) + branch(x)). The parts are methods, so that stochastic depth, folding and
lesions can treat a block of any kind alike while its state-dict keys stay torchvision's.

Shapes: x is [N, C, H, W]; a block with stride s gives [N, C', H/s, W/s].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from resx.zoo.families.network import NetworkPart, layer_parts
from resx.zoo.families.stochastic_depth import StochasticBranch


class ResidualBlock(StochasticBranch):
    """ReLU(shortcut(x) + branch(x)); subclasses say what the branch is."""

    def __init__(self, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.downsample = shortcut
        self.relu = nn.ReLU(inplace=True)

    def shortcut(self, x_NCHW: Tensor) -> Tensor:
        """Return x itself, or x brought to the shape of the branch's output."""
        return x_NCHW if self.downsample is None else self.downsample(x_NCHW)

    def joined(self, x_NCHW: Tensor) -> Tensor:
        """Return ReLU(f_l(x) + shortcut)."""
        shortcut = self.shortcut(x_NCHW)
        return self.relu(self.expected(self.branch(x_NCHW)) + shortcut)

    def skipped(self, x_NCHW: Tensor) -> Tensor:
        """Return ReLU(shortcut)."""
        return F.relu(self.shortcut(x_NCHW))  # not in place: this may be x itself

    def apart(self, branch_x_NCHW: Tensor, shortcut_x_NCHW: Tensor) -> Tensor:
        """Return ReLU(f_l(x) + shortcut(x'))."""
        return F.relu(self.expected(self.branch(branch_x_NCHW)) + self.shortcut(shortcut_x_NCHW))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__(shortcut)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return f_l(x)."""
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_NCHW)))))

    def branch_end(self) -> nn.Module:
        """Return the batch norm after the last convolution."""
        return self.bn2


@dataclass(frozen=True, kw_only=True, slots=True)
class BottleneckShape:
    """Channels of a bottleneck."""

    in_channels: int
    inner: int
    """Of the 3x3 convolution, all groups together."""
    out_channels: int
    groups: int
    stride: int


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 convolutions (figure 5, right); grouped 3x3 makes it ResNeXt's form (c).

    The stride is on the 3x3 convolution, not on the first 1x1 as in the paper: the "v1.5" that
    torchvision, NVIDIA and MLPerf use, about half a point more accurate for 5 % more work.
    """

    expansion = 4

    def __init__(self, shape: BottleneckShape, shortcut: nn.Module | None) -> None:
        super().__init__(shortcut)
        self.shape = shape
        self.conv1 = nn.Conv2d(shape.in_channels, shape.inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.inner)
        self.conv2 = nn.Conv2d(
            shape.inner, shape.inner, 3, stride=shape.stride, padding=1, groups=shape.groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(shape.inner)
        self.conv3 = nn.Conv2d(shape.inner, shape.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(shape.out_channels)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return f_l(x)."""
        x_NCHW = self.relu(self.bn1(self.conv1(x_NCHW)))
        x_NCHW = self.relu(self.bn2(self.conv2(x_NCHW)))
        return self.bn3(self.conv3(x_NCHW))

    def branch_end(self) -> nn.Module:
        """Return the batch norm after the last convolution."""
        return self.bn3


class PlainBlock(nn.Module):
    """Two 3x3 convolutions and nothing around them: the basic block of a network without shortcuts."""

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return ReLU(f_l(x))."""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_NCHW))))))

    def parts(self, name: str) -> Iterator[NetworkPart]:
        """Yield its two layers as blocks; `name` is the block's own."""
        first = [("conv1", self.conv1), ("bn1", self.bn1), ("relu1", self.relu)]
        return layer_parts(name, [*first, ("conv2", self.conv2), ("bn2", self.bn2), ("relu2", self.relu)])


class PaddingShortcut(nn.Module):
    """Option A of He et al. 2015, section 3.3: take every `stride`-th pixel and add channels of zeros."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return x at the new shape; no parameters."""
        return F.pad(x_NCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


class PoolingShortcut(nn.Module):
    """The shortcut of stochastic depth's published code: average `stride` x `stride` pixels, add channels of zeros.

    Huang et al. 2016 call it option A; every pixel counts, where option A of He et al. takes one of four.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        # Rounded up, as a convolution of stride 2 with padding rounds odd sizes.
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.extra_channels = out_channels - in_channels

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return x at the new shape; no parameters."""
        return F.pad(self.pool(x_NCHW), (0, 0, 0, 0, 0, self.extra_channels))


def projection_shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """Option B of He et al. 2015, section 3.3: a 1x1 convolution and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
