"""The form of ResNeXt's blocks that runs fastest: grouped, of the three that figure 3 of Xie et al. 2016 shows.

The three hold the same numbers (`resx.zoo.families.resnext`). A block of 32 paths is 64 or 96 small convolutions and 31
sums or a concatenation; grouped it is three convolutions. `benchmarks/resnext_forms.py` measures what that gains.
TensorRT 11.2.1 refuses some grouped fp16 convolutions; putting those to fp32 (`resx.export.graph.grouped_convolutions`)
still leaves it three convolutions, so the GPU's form is the same.
"""

from __future__ import annotations

from torch import nn

from resx.zoo.families.resnext import AggregatedBottleneck, ConcatenatedBottleneck, convert_form

STEP = "grouped form"


def grouped_form(model: nn.Module) -> nn.Module | None:
    """Return a copy of `model` whose bottlenecks are grouped; None if they are already, or it has none."""
    if not any(isinstance(module, AggregatedBottleneck | ConcatenatedBottleneck) for module in model.modules()):
        return None
    return convert_form(model, "grouped")
