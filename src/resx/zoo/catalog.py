"""Every variant by name: its spec, its paper, and what was published about it. Needs no torch.

Parameters and multiply-adds are golden: a test builds each variant and counts them again. `top1_percent`
is the ImageNet accuracy of the weights that `--weights imagenet` loads (torchvision's metadata, compared
by a test); `error_percent` is the paper's own figure on CIFAR-10.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resx.errors import UsageError, nearest
from resx.zoo.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SPEC_FILE,
    Architecture,
    DenseNetArchitecture,
    ModelSpec,
    ResNetArchitecture,
)

HE_2015 = "He et al. 2015, arXiv:1512.03385"
HUANG_2017 = "Huang et al. 2017, arXiv:1608.06993"

# Of the CIFAR-10 training images, for pixels in [0, 1].
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A named network with its published figures."""

    spec: ModelSpec
    paper: str
    num_parameters: int
    gmacs: float
    """Multiply-adds of convolutions and linear layers for one image, in units of 10^9."""
    top1_percent: float | None = None
    error_percent: float | None = None

    @property
    def published(self) -> str:
        """The published figure as a person reads it, or an empty string."""
        if self.top1_percent is not None:
            return f"{self.top1_percent:.2f} % top-1, ImageNet"
        return f"{self.error_percent:.2f} % error, CIFAR-10" if self.error_percent is not None else ""


def variant(name: str) -> Variant:
    """Return the variant of that name.

    Raises:
        UsageError: there is none; the message offers the nearest names.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(f"no model named {name!r}{nearest(name, VARIANTS)} (`resx models` lists all)") from None


def kind_of(text: str) -> Literal["run", "variant"]:
    """Say whether the user named a run's folder or a variant, before anything heavy is imported.

    Raises:
        UsageError: it is neither.
    """
    folder = Path(text)
    if (folder / SPEC_FILE).is_file():
        return "run"
    if text not in VARIANTS and (folder.is_dir() or "/" in text):
        what = f"has no {SPEC_FILE}" if folder.is_dir() else "is not there"
        raise UsageError(f"{text}: not a run ({what}); give a run's folder or a name that `resx models` lists")
    variant(text)
    return "variant"


def _imagenet(name: str, architecture: Architecture, *, resize: int = 256) -> ModelSpec:
    return ModelSpec(
        name=name, architecture=architecture, classes=1000, image_size=224, resize=resize,
        mean=IMAGENET_MEAN, std=IMAGENET_STD,
    )  # fmt: skip


def _cifar(name: str, architecture: Architecture) -> ModelSpec:
    return ModelSpec(
        name=name,
        architecture=architecture,
        classes=10,
        image_size=32,
        resize=32,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
    )


def _resnet(
    name: str,
    architecture: ResNetArchitecture,
    parameters: int,
    gmacs: float,
    top1: float,
    *,
    resize: int = 256,
) -> Variant:
    return Variant(
        spec=_imagenet(name, architecture, resize=resize), paper=HE_2015,
        num_parameters=parameters, gmacs=gmacs, top1_percent=top1,
    )  # fmt: skip


def _cifar_resnet(depth: int, parameters: int, gmacs: float, error: float) -> Variant:
    blocks = (depth - 2) // 6  # 6n + 2 layers: three stages of n blocks, section 4.2
    architecture = ResNetArchitecture(
        block="basic", stage_depths=(blocks, blocks, blocks), width=16, stem="cifar", shortcut="padding"
    )
    return Variant(
        spec=_cifar(f"resnet{depth}", architecture), paper=HE_2015,
        num_parameters=parameters, gmacs=gmacs, error_percent=error,
    )  # fmt: skip


def _densenet(
    name: str, depths: tuple[int, ...], growth: int, stem: int, parameters: int, gmacs: float, top1: float
) -> Variant:
    architecture = DenseNetArchitecture(block_depths=depths, growth_rate=growth, stem_width=stem)
    return Variant(
        spec=_imagenet(name, architecture), paper=HUANG_2017,
        num_parameters=parameters, gmacs=gmacs, top1_percent=top1,
    )  # fmt: skip


def _basic(*depths: int) -> ResNetArchitecture:
    return ResNetArchitecture(block="basic", stage_depths=depths)


def _bottleneck(*depths: int) -> ResNetArchitecture:
    return ResNetArchitecture(block="bottleneck", stage_depths=depths)


_ALL = [
    _resnet("resnet18", _basic(2, 2, 2, 2), 11_689_512, 1.814, 69.758),
    _resnet("resnet34", _basic(3, 4, 6, 3), 21_797_672, 3.664, 73.314),
    _resnet("resnet50", _bottleneck(3, 4, 6, 3), 25_557_032, 4.089, 80.858, resize=232),
    _resnet("resnet101", _bottleneck(3, 4, 23, 3), 44_549_160, 7.801, 81.886, resize=232),
    _resnet("resnet152", _bottleneck(3, 8, 36, 3), 60_192_808, 11.514, 82.284, resize=232),
    _cifar_resnet(20, 269_722, 0.041, 8.75),
    _cifar_resnet(32, 464_154, 0.069, 7.51),
    _cifar_resnet(44, 658_586, 0.097, 7.17),
    _cifar_resnet(56, 853_018, 0.125, 6.97),
    _cifar_resnet(110, 1_727_962, 0.253, 6.43),
    _densenet("densenet121", (6, 12, 24, 16), 32, 64, 7_978_856, 2.834, 74.434),
    _densenet("densenet169", (6, 12, 32, 32), 32, 64, 14_149_480, 3.36, 75.6),
    _densenet("densenet201", (6, 12, 48, 32), 32, 64, 20_013_928, 4.291, 76.896),
    _densenet("densenet161", (6, 12, 36, 24), 48, 96, 28_681_000, 7.728, 77.138),
]
VARIANTS: dict[str, Variant] = {entry.spec.name: entry for entry in _ALL}
