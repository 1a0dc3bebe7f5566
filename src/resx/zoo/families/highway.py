"""Highway networks: Srivastava et al. 2015 (arXiv:1507.06228), convolutional, for CIFAR.

    y = T(x) H(x) + (1 - T(x)) x        H = ReLU(W_H * x + b_H),  T = sigmoid(W_T * x + b_T)

The transform gate T says, per value, how much of the layer's own output passes and how much of its input is
carried. With both gates held open, T = C = 1 in place of C = 1 - T, this is H(x) + x: a residual block is
the gate-free case.

`highway19` is the authors' network for CIFAR-10 (`cifar10_network.prototxt` in github.com/flukeskywalker/
highway-networks), layer by layer, 2,256,838 parameters. It ends in a 1x1 convolution and average pooling, so its
figure is that of table 3, 7.60 % error; the 7.54 % of table 2 belong to a network with a fully connected layer.
`highway32` is this project's own: section 3.3.1 says 32 layers, receptive fields that alternate between 3x3 and 1x1,
and about 1.25 million parameters, and no widths, so the paper's 8.80 % are not claimed for it.

**Where this is not the paper.** Convolutions begin with He initialisation, where the authors' Caffe network has Xavier,
and a normal distribution in the first and the last layer. Their data are contrast-normalised, here normalised per
channel.

**Stochastic depth.** As y = x + T (H - x), the branch is T (H - x), and a layer without it is the identity.
Evaluation multiplies the branch by p: y = p T H + (1 - p T) x.

**Folding.** No weights of the gate can give p T, as no affine z makes sigmoid(z) end at p < 1. But let the
layer's input be x = s x' for a known s > 0, and write H' for ReLU(W_H * x' + b_H / s) = H / s. Then

    y = p T s H' + (1 - p T) s x' = (s p) (T H' + (1/p - T) x')

so y = s' y' with s' = s p and y' = T H' + (1/p - T) x': the same operators as before, with the constant 1
become 1/p, b_H divided by s, and W_T multiplied by s so that the gate sees the true input. The factor s
wanders through the stage, starts at 1 and ends in the next layer that is affine in its input: the plain
convolution of the next stage (max pooling lets it through), the head's 1x1 convolution, or without one the classifier
(averaging lets it through too). Values inside a stage are 1/s times larger; s is the product of a stage's
probabilities, 0.0066 for the last nine of 27 layers with p_L = 0.5 (`highway32`), which fp16 holds for activations
up to about 400.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resx.errors import ExportError
from resx.zoo.architectures import HighwayArchitecture, ReceptiveField
from resx.zoo.families.network import Network, NetworkPart, glue
from resx.zoo.families.stochastic_depth import StochasticBranch


class HighwayLayer(StochasticBranch):
    """T(x) H(x) + (carry - T(x)) x, both convolutions with the same receptive field."""

    carry: float = 1.0
    """1; folding makes it 1/p."""

    def __init__(self, width: int, *, gate_bias: float, receptive_field: ReceptiveField = 3) -> None:
        super().__init__()
        self.transform = _conv(width, width, receptive_field)
        self.gate = _conv(width, width, receptive_field)
        self.relu = nn.ReLU(inplace=True)
        self.gate_bias = gate_bias

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return T(x) (H(x) - x)."""
        return torch.sigmoid(self.gate(x_NCHW)) * (self.relu(self.transform(x_NCHW)) - x_NCHW)

    def shortcut(self, x_NCHW: Tensor) -> Tensor:
        """Return x."""
        return self.carry * x_NCHW if self.carry != 1.0 else x_NCHW

    def joined(self, x_NCHW: Tensor) -> Tensor:
        """Return shortcut + branch, written as the paper does."""
        gate = self.expected(torch.sigmoid(self.gate(x_NCHW)))
        return gate * self.relu(self.transform(x_NCHW)) + (self.carry - gate) * x_NCHW

    def skipped(self, x_NCHW: Tensor) -> Tensor:
        """Return the shortcut alone: x."""
        return self.shortcut(x_NCHW)

    def apart(self, branch_x_NCHW: Tensor, shortcut_x_NCHW: Tensor) -> Tensor:
        """Return x' + T(x) (H(x) - x): what the gate takes away of x is part of the branch."""
        return self.shortcut(shortcut_x_NCHW) + self.expected(self.branch(branch_x_NCHW))

    def branch_end(self) -> nn.Module:
        """Refuse: a gate multiplies the branch, so one layer's weights are not enough.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            "highway layer: its gate cannot take up a survival probability; fold the whole network it is part of"
        )


class HighwayStage(nn.Module):
    """Dropout, a plain convolution that sets the width, and highway layers."""

    def __init__(self, in_channels: int, width: int, depth: int, architecture: HighwayArchitecture) -> None:
        super().__init__()
        first, *others = itertools.islice(itertools.cycle(architecture.receptive_fields), depth)
        gate_bias = architecture.gate_bias
        self.dropout = _dropout(architecture)
        self.conv = _conv(in_channels, width, first)
        self.relu = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(
            *(HighwayLayer(width, gate_bias=gate_bias, receptive_field=field) for field in others)
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the stage's output, at the same height and width."""
        return self.layers(self.relu(self.conv(self.dropout(x_NCHW))))


class Highway(Network):
    """Stages with max pooling between them, a 1x1 convolution if the head has one, average pooling, linear layer.

    Dropout stands before each stage and before the linear layer.

    Input: normalized floats [N, 3, H, W]. Output: logits [N, classes].
    """

    def __init__(self, architecture: HighwayArchitecture, *, classes: int) -> None:
        super().__init__()
        stages, channels = [], 3
        for depth, width in zip(architecture.stage_depths, architecture.stage_widths, strict=True):
            stages.append(HighwayStage(channels, width, depth, architecture))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.maxpool = nn.MaxPool2d(2)
        self.dropout = _dropout(architecture)
        self.head = nn.Sequential()
        if architecture.head_width:
            self.head = nn.Sequential(_conv(channels, architecture.head_width, 1), nn.ReLU(inplace=True))
            channels = architecture.head_width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        _initialise(self)

    def blocks(self) -> Iterator[HighwayLayer]:
        """Yield the highway layers, first to last."""
        return (module for module in self.modules() if isinstance(module, HighwayLayer))

    def parts(self) -> Iterator[NetworkPart]:
        """Yield each stage's plain convolution, with the pooling before it, its highway layers, and the head."""
        for number, stage in enumerate(module for module in self.stages if isinstance(module, HighwayStage)):
            yield glue(self.maxpool if number else nn.Identity(), stage.dropout, stage.conv, stage.relu)
            yield from (NetworkPart(module=layer, is_block=True) for layer in stage.layers)
        yield glue(self.head, self.avgpool, nn.Flatten(), self.dropout, self.fc)

    def folding_groups(self) -> Iterator[tuple[list[HighwayLayer], nn.Conv2d | nn.Linear]]:
        """Yield each stage's highway layers with the layer that takes the stage's output, affine in it."""
        stages = [module for module in self.stages if isinstance(module, HighwayStage)]
        last = self.head[0] if len(self.head) else self.fc
        assert isinstance(last, nn.Conv2d | nn.Linear)
        takers: list[nn.Conv2d | nn.Linear] = [*(stage.conv for stage in stages[1:]), last]
        for stage, taker in zip(stages, takers, strict=True):
            yield [layer for layer in stage.layers if isinstance(layer, HighwayLayer)], taker

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        for number, stage in enumerate(self.stages):
            x_NCHW = stage(x_NCHW if number == 0 else self.maxpool(x_NCHW))
        return self.fc(self.dropout(torch.flatten(self.avgpool(self.head(x_NCHW)), 1)))


def _conv(in_channels: int, out_channels: int, receptive_field: ReceptiveField) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, receptive_field, padding=receptive_field // 2)


def _dropout(architecture: HighwayArchitecture) -> nn.Module:
    return nn.Dropout(architecture.dropout) if architecture.dropout else nn.Identity()


def _initialise(model: nn.Module) -> None:
    """He initialisation for convolutions, zero biases but the gates' negative ones (section 2.2)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, HighwayLayer) and module.gate.bias is not None:
            nn.init.constant_(module.gate.bias, module.gate_bias)
