"""Densely connected networks: Huang et al. 2017 (arXiv:1608.06993), table 1 for ImageNet, section 4.2 for CIFAR.

State-dict keys are torchvision's (`features.denseblockB.denselayerL...`, `classifier`).

Stochastic depth is not in the paper; here a skipped layer contributes zeros in the place of its k
channels, and evaluation scales them by p_l, their expectation. The scaled tensor is the output of the
layer's last convolution, which has no bias: p (W * x) = (p W) * x. What follows is a concatenation, which
leaves the other channels alone, so folding p_l into that convolution's weights is exact.

**Where this is not the paper.**
- Convolutions begin normal with a variance by fan-in, as torchvision's; the authors' code takes fan-out.
- `dropout` is 0, right for the augmented columns of the paper's table 2; the others need 0.2 (`--set dropout=0.2`).
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resx.zoo.architectures import DenseNetArchitecture
from resx.zoo.families.network import Network, NetworkPart, glue
from resx.zoo.families.stochastic_depth import StochasticBranch


class DenseLayer(StochasticBranch):
    """BN-ReLU-Conv3x3, with BN-ReLU-Conv1x1 in front as DenseNet-B; its k channels are appended to its input."""

    def __init__(self, in_channels: int, *, growth_rate: int, bottleneck: int, dropout: float = 0.0) -> None:
        super().__init__()
        inner = bottleneck * growth_rate
        self.growth_rate = growth_rate
        self.has_bottleneck = bottleneck > 0
        self.norm1 = nn.BatchNorm2d(in_channels)
        if self.has_bottleneck:
            self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(inner)
            self.conv2 = nn.Conv2d(inner, growth_rate, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, growth_rate, 3, padding=1, bias=False)
        self.dropout1, self.dropout2 = _dropout(dropout), _dropout(dropout)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return the layer's new features [N, k, H, W]."""
        x_NCHW = self.dropout1(self.conv1(F.relu(self.norm1(x_NCHW))))
        return self.dropout2(self.conv2(F.relu(self.norm2(x_NCHW)))) if self.has_bottleneck else x_NCHW

    def branch_end(self) -> nn.Module:
        """Return the last convolution."""
        return self.conv2 if self.has_bottleneck else self.conv1

    def shortcut(self, x_NCHW: Tensor) -> Tensor:
        """Return x, which the new features are put behind rather than added to."""
        return x_NCHW

    def joined(self, x_NCHW: Tensor) -> Tensor:
        """Return x with the new features behind it: [N, C + k, H, W]."""
        return torch.cat([x_NCHW, self.expected(self.branch(x_NCHW))], 1)

    def skipped(self, x_NCHW: Tensor) -> Tensor:
        """Return x with k channels of zeros behind it."""
        return F.pad(x_NCHW, (0, 0, 0, 0, 0, self.growth_rate))

    def apart(self, branch_x_NCHW: Tensor, shortcut_x_NCHW: Tensor) -> Tensor:
        """Return one input with the new features of another behind it."""
        return torch.cat([shortcut_x_NCHW, self.expected(self.branch(branch_x_NCHW))], 1)


class DenseBlock(nn.Sequential):
    """Dense layers in a row.

    Kept for the backward pass, the layers' concatenated inputs take memory that grows with the square of
    their number. With `recompute` only each layer's own k channels are kept, and concatenation,
    normalisation and activation are computed again (Pleiss et al. 2017, arXiv:1707.06990).
    """

    recompute: bool = False

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return x with every layer's features behind it."""
        layers = [layer for layer in self if isinstance(layer, DenseLayer)]
        if not (self.training and self.recompute):
            for layer in layers:
                x_NCHW = layer(x_NCHW)
            return x_NCHW
        features = [x_NCHW]
        for layer in layers:
            features.append(_recompute(layer, features) if layer.survives() else _zeros(layer, x_NCHW))
        return torch.cat(features, 1)


def _recompute(layer: DenseLayer, features: list[Tensor]) -> Tensor:
    def new_features(*inputs: Tensor) -> Tensor:
        return layer.branch(torch.cat(inputs, 1))

    output = checkpoint(
        new_features,
        *features,
        use_reentrant=False,
        preserve_rng_state=isinstance(layer.dropout1, nn.Dropout),  # what it lost before has to be lost again
        context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(layer)),
    )
    assert isinstance(output, Tensor)
    return output


def _zeros(layer: DenseLayer, x_NCHW: Tensor) -> Tensor:
    return x_NCHW.new_zeros(len(x_NCHW), layer.growth_rate, *x_NCHW.shape[2:])


@contextlib.contextmanager
def _statistics_kept(layer: DenseLayer) -> Iterator[None]:
    """Keep batch norms from counting a batch into their running statistics a second time."""
    kept = [(norm, dict(norm.named_buffers())) for norm in layer.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm, buffers in kept:
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


class Transition(nn.Sequential):
    """Between dense blocks: fewer channels, half the image."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            OrderedDict(
                norm=nn.BatchNorm2d(in_channels),
                relu=nn.ReLU(inplace=True),
                conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
                dropout=_dropout(dropout),
                pool=nn.AvgPool2d(2),
            )
        )


class DenseNet(Network):
    """Stem, dense blocks with transitions between them, average pooling, linear layer.

    Input: normalized floats [N, 3, H, W]. Output: logits [N, classes].
    """

    def __init__(self, architecture: DenseNetArchitecture, *, classes: int) -> None:
        super().__init__()
        channels = architecture.stem_width
        self.features = _stem(architecture)
        for number, depth in enumerate(architecture.block_depths, start=1):
            block = DenseBlock()
            block.recompute = architecture.recompute
            for index in range(1, depth + 1):
                layer = DenseLayer(
                    channels,
                    growth_rate=architecture.growth_rate,
                    bottleneck=architecture.bottleneck,
                    dropout=architecture.dropout,
                )
                block.add_module(f"denselayer{index}", layer)
                channels += architecture.growth_rate
            self.features.add_module(f"denseblock{number}", block)
            if number < len(architecture.block_depths):
                passed_on = max(1, int(architecture.compression * channels))
                transition = Transition(channels, passed_on, dropout=architecture.dropout)
                self.features.add_module(f"transition{number}", transition)
                channels = passed_on
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)
        _initialise(self)

    def blocks(self) -> Iterator[DenseLayer]:
        """Yield the dense layers, first to last."""
        return (module for module in self.modules() if isinstance(module, DenseLayer))

    def parts(self) -> Iterator[NetworkPart]:
        """Yield stem, dense layers, transitions between them and head."""
        waiting: list[nn.Module] = []
        for child in self.features.children():
            if isinstance(child, DenseBlock):
                yield glue(*waiting)
                waiting = []
                yield from (NetworkPart(module=layer, is_block=True, appends=True) for layer in child)
            else:
                waiting.append(child)
        yield glue(*waiting, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.classifier)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        x_NCHW = F.relu(self.features(x_NCHW))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x_NCHW, 1), 1))


def _stem(architecture: DenseNetArchitecture) -> nn.Sequential:
    channels = architecture.stem_width
    if architecture.stem == "cifar":
        return nn.Sequential(OrderedDict(conv0=nn.Conv2d(3, channels, 3, padding=1, bias=False)))
    return nn.Sequential(
        OrderedDict(
            conv0=nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )


def _dropout(probability: float) -> nn.Module:
    return nn.Dropout(probability) if probability else nn.Identity()


def _initialise(model: nn.Module) -> None:
    """As torchvision: He initialisation for convolutions, zero bias for the classifier."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
