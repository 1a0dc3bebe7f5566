"""VGG: Simonyan and Zisserman 2014 (arXiv:1409.1556), table 1, with and without batch norm.

State-dict keys are torchvision's (`features.I...`, `classifier.I...`). No layer has a way around it, which is
what makes it the contrast to residual networks in lesion studies.

**Where this is not the paper.**
- The networks with batch norm are torchvision's.
- Average pooling to 7x7 before the linear layers lets images of any size in; at 224 pixels it changes nothing.
- Convolutions begin with He initialisation; the paper begins its deep networks with layers of a trained shallow one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resx.zoo.architectures import VGGArchitecture
from resx.zoo.families.initialisation import initialise_convolutions
from resx.zoo.families.network import Network, NetworkPart, glue, layer_parts


class VGG(Network):
    """Stages of 3x3 convolutions with max pooling after each, then three linear layers.

    Input: normalized floats [N, 3, H, W]. Output: logits [N, classes].
    """

    def __init__(self, architecture: VGGArchitecture, *, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for depth, width in zip(architecture.stage_depths, architecture.stage_widths, strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if architecture.batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))
        hidden = architecture.hidden_width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )
        _initialise(self)

    def blocks(self) -> Iterator[nn.Sequential]:
        """Yield the convolutional layers, first to last, each with its batch norm and ReLU, as views of `features`."""
        ends = [index + 1 for index, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        starts = [index for index, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        return (self.features[start:end] for start, end in zip(starts, ends, strict=True))

    def parts(self) -> Iterator[NetworkPart]:
        """Yield the convolutional layers as blocks, pooling between them, and the head."""
        yield from layer_parts("features", self.features.named_children())
        yield glue(self.avgpool, nn.Flatten(), self.classifier)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x_NCHW)), 1))


def _initialise(model: nn.Module) -> None:
    """As torchvision: He initialisation for convolutions, small normal weights for linear layers, zero biases."""
    initialise_convolutions(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
