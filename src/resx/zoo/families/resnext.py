"""ResNeXt: Xie et al. 2016 (arXiv:1611.05431), whose figure 3 writes one block in three equivalent forms.

    (a) aggregated     C paths, each 1x1 -> 3x3 -> 1x1, summed
    (b) concatenated   C paths, each 1x1 -> 3x3, concatenated, then one 1x1
    (c) grouped        1x1 -> grouped 3x3 -> 1x1: `resx.zoo.families.residual_blocks.Bottleneck`, as torchvision writes
    it

They hold the same numbers: the first two layers of path i are the i-th part of form (c)'s output channels,
and the sum of the paths' last convolutions is one convolution over their concatenation. So the last batch
norm of form (a) comes after the sum, as the paper says. The network around the blocks is the ResNet, with its stride
on the 3x3 convolution, as in the authors' code.
"""

import copy
from typing import TypeAlias

import torch
from torch import Tensor, nn

from resx.errors import UsageError
from resx.zoo.architectures import BottleneckForm
from resx.zoo.families.residual_blocks import Bottleneck, BottleneckShape, ResidualBlock


class Path(nn.Module):
    """One of C paths: a 1x1 and a 3x3 convolution with inner / C channels, and in form (a) the last 1x1."""

    def __init__(self, shape: BottleneckShape, *, ends_in_conv3: bool) -> None:
        super().__init__()
        width = shape.inner // shape.groups
        self.conv1 = nn.Conv2d(shape.in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=shape.stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, shape.out_channels, 1, bias=False) if ends_in_conv3 else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the path's output."""
        x_NCHW = self.relu(self.bn1(self.conv1(x_NCHW)))
        return self.conv3(self.relu(self.bn2(self.conv2(x_NCHW))))


class AggregatedBottleneck(ResidualBlock):
    """Form (a): C paths of 1x1, 3x3 and 1x1 convolutions, summed, then a batch norm."""

    def __init__(self, shape: BottleneckShape, shortcut: nn.Module | None) -> None:
        super().__init__(shortcut)
        self.shape = shape
        self.paths = nn.ModuleList(Path(shape, ends_in_conv3=True) for _ in range(shape.groups))
        self.bn3 = nn.BatchNorm2d(shape.out_channels)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return f_l(x)."""
        first, *others = self.paths
        total = first(x_NCHW)
        for path in others:
            total = total + path(x_NCHW)
        return self.bn3(total)

    def branch_end(self) -> nn.Module:
        """Return the batch norm after the sum."""
        return self.bn3


class ConcatenatedBottleneck(ResidualBlock):
    """Form (b): C paths of 1x1 and 3x3 convolutions, concatenated, then a 1x1 convolution and a batch norm."""

    def __init__(self, shape: BottleneckShape, shortcut: nn.Module | None) -> None:
        super().__init__(shortcut)
        self.shape = shape
        self.paths = nn.ModuleList(Path(shape, ends_in_conv3=False) for _ in range(shape.groups))
        self.conv3 = nn.Conv2d(shape.inner, shape.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(shape.out_channels)

    def branch(self, x_NCHW: Tensor) -> Tensor:
        """Return f_l(x)."""
        return self.bn3(self.conv3(torch.cat([path(x_NCHW) for path in self.paths], 1)))

    def branch_end(self) -> nn.Module:
        """Return the batch norm after the last convolution."""
        return self.bn3


AnyBottleneck: TypeAlias = Bottleneck | AggregatedBottleneck | ConcatenatedBottleneck

FORMS: dict[BottleneckForm, type[AnyBottleneck]] = {
    "aggregated": AggregatedBottleneck,
    "concatenated": ConcatenatedBottleneck,
    "grouped": Bottleneck,
}

_SPLIT_BY_OUTPUT = ("conv1.", "bn1.", "conv2.", "bn2.")


def convert_form(model: nn.Module, form: BottleneckForm) -> nn.Module:
    """Return a copy of `model` with its bottlenecks in another form (Xie et al. 2016, arXiv:1611.05431, figure 3).

    The copy gives the same answers to rounding. The conversion only moves weights, so converting back restores every
    bit. `model` itself is not changed.

    Args:
        model: a ResNeXt, or a ResNet with bottlenecks.
        form: `aggregated` (a), `concatenated` (b) or `grouped` (c).

    Raises:
        UsageError: the model has no bottlenecks.
    """
    converted = copy.deepcopy(model)
    found = [
        (parent, name, block)
        for parent in converted.modules()
        for name, block in parent.named_children()
        if isinstance(block, AnyBottleneck)
    ]
    if not found:
        raise UsageError(f"form={form}: the model has no bottlenecks to write in it; build a ResNeXt")
    for parent, name, block in found:
        setattr(parent, name, _convert(block, form))
    return converted


def _convert(block: AnyBottleneck, form: BottleneckForm) -> AnyBottleneck:
    with torch.device("meta"):
        target = FORMS[form](block.shape, block.downsample)
    state = _split(_join(block.state_dict()), block.shape.groups, form)
    target.load_state_dict(state, assign=True)
    target.survival = block.survival
    return target.train(block.training)


def _join(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a block's state under form (c)'s names."""
    groups = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("paths.")), default=-1)
    joined = {name: tensor for name, tensor in state.items() if not name.startswith("paths.")}
    for name in [name.removeprefix("paths.0.") for name in state if name.startswith("paths.0.")]:
        parts = [state[f"paths.{group}.{name}"] for group in range(groups)]
        if name.endswith("num_batches_tracked"):
            joined[name] = parts[0]  # the paths of a block always run together
        else:
            joined[name] = torch.cat(parts, 0 if name.startswith(_SPLIT_BY_OUTPUT) else 1)
    return joined


def _split(joined: dict[str, Tensor], groups: int, form: BottleneckForm) -> dict[str, Tensor]:
    """Return form (c)'s state under another form's names."""
    if form == "grouped":
        return joined
    state = {}
    for name, tensor in joined.items():
        if name.startswith(_SPLIT_BY_OUTPUT):
            dim = 0
        elif name.startswith("conv3.") and form == "aggregated":
            dim = 1
        else:
            state[name] = tensor
            continue
        parts = [tensor] * groups if tensor.ndim == 0 else tensor.chunk(groups, dim)
        state |= {f"paths.{group}.{name}": part.clone().contiguous() for group, part in enumerate(parts)}
    return state
