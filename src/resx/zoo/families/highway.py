"""Highway networks: Srivastava et al. 2015 (arXiv:1505.00387), convolutional, for CIFAR.

    y = T(x) H(x) + (1 - T(x)) x        H = ReLU(W_H * x + b_H),  T = sigmoid(W_T * x + b_T)

The transform gate T says, per value, how much of the layer's own output passes and how much of its input is
carried. With both gates held open, T = C = 1 in place of C = 1 - T, this is H(x) + x: a residual block is
the gate-free case. The paper prints no widths for its fully convolutional networks; those in the catalog
give the published numbers of parameters.

**Stochastic depth.** As y = x + T (H - x), the branch is T (H - x), and a layer without it is the identity.
Evaluation multiplies the branch by p: y = p T H + (1 - p T) x.

**Folding.** No weights of the gate can give p T, as no affine z makes sigmoid(z) end at p < 1. But let the
layer's input be x = s x' for a known s > 0, and write H' for ReLU(W_H * x' + b_H / s) = H / s. Then

    y = p T s H' + (1 - p T) s x' = (s p) (T H' + (1/p - T) x')

so y = s' y' with s' = s p and y' = T H' + (1/p - T) x': the same operators as before, with the constant 1
become 1/p, b_H divided by s, and W_T multiplied by s so that the gate sees the true input. The factor s
wanders through the stage, starts at 1 and ends in the next layer that is affine in its input: the plain
convolution of the next stage (max pooling lets it through), or the classifier (so does averaging). Values
inside a stage are 1/s times larger; s is the product of a stage's probabilities, 0.004 for the last ten of 29
layers with p_L = 0.5, which fp16 holds for activations up to about 200.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resx.errors import ExportError
from resx.zoo.architectures import HighwayArchitecture
from resx.zoo.families.network import Network, NetworkPart, glue
from resx.zoo.families.stochastic_depth import StochasticBranch


class HighwayLayer(StochasticBranch):
    """T(x) H(x) + (carry - T(x)) x, all 3x3 convolutions."""

    carry: float = 1.0
    """1; folding makes it 1/p."""

    def __init__(self, width: int, *, gate_bias: float) -> None:
        super().__init__()
        self.transform = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv2d(width, width, 3, padding=1)
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
    """A plain convolution that sets the width, and highway layers."""

    def __init__(self, in_channels: int, width: int, *, num_layers: int, gate_bias: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(*(HighwayLayer(width, gate_bias=gate_bias) for _ in range(num_layers)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the stage's output, at the same height and width."""
        return self.layers(self.relu(self.conv(x_NCHW)))


class Highway(Network):
    """Stages with max pooling between them, average pooling, linear layer.

    Input [N, 3, H, W] normalised floats; output [N, classes] logits.
    """

    def __init__(self, architecture: HighwayArchitecture, *, classes: int) -> None:
        super().__init__()
        stages, channels = [], 3
        for depth, width in zip(architecture.stage_depths, architecture.stage_widths, strict=True):
            stages.append(HighwayStage(channels, width, num_layers=depth - 1, gate_bias=architecture.gate_bias))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.maxpool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        _initialise(self)

    def blocks(self) -> Iterator[HighwayLayer]:
        """Yield the highway layers, first to last."""
        return (module for module in self.modules() if isinstance(module, HighwayLayer))

    def parts(self) -> Iterator[NetworkPart]:
        """Yield each stage's plain convolution, with the pooling before it, its highway layers, and the head."""
        for number, stage in enumerate(module for module in self.stages if isinstance(module, HighwayStage)):
            yield glue(self.maxpool if number else nn.Identity(), stage.conv, stage.relu)
            yield from (NetworkPart(module=layer, is_block=True) for layer in stage.layers)
        yield glue(self.avgpool, nn.Flatten(), self.fc)

    def folding_groups(self) -> Iterator[tuple[list[HighwayLayer], nn.Conv2d | nn.Linear]]:
        """Yield each stage's highway layers with the layer that takes the stage's output, affine in it."""
        stages = [module for module in self.stages if isinstance(module, HighwayStage)]
        takers: list[nn.Conv2d | nn.Linear] = [*(stage.conv for stage in stages[1:]), self.fc]
        for stage, taker in zip(stages, takers, strict=True):
            yield [layer for layer in stage.layers if isinstance(layer, HighwayLayer)], taker

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        for number, stage in enumerate(self.stages):
            x_NCHW = stage(x_NCHW if number == 0 else self.maxpool(x_NCHW))
        return self.fc(torch.flatten(self.avgpool(x_NCHW), 1))


def _initialise(model: nn.Module) -> None:
    """He initialisation for convolutions, zero biases but the gates' negative ones (section 2.2)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, HighwayLayer) and module.gate.bias is not None:
            nn.init.constant_(module.gate.bias, module.gate_bias)
