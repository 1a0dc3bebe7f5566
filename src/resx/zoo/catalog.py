"""Every variant by name: its spec, its paper, and what was published about it. Needs no torch.

Parameters and multiply-adds are golden: a test builds each variant and counts them again. `top1_percent`
is the ImageNet accuracy of the weights that `--weights imagenet` loads (torchvision's metadata, compared
by a test); `error_percent` is the paper's own figure, on what `error_on` says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resx.errors import UsageError, nearest
from resx.zoo import depths, papers
from resx.zoo.architectures import Architecture, DenseNetArchitecture
from resx.zoo.foreign_names import COLLECTIONS, require_foreign_name, short_name
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, SPEC_FILE, ModelSpec

PAPERS = {
    "resnet": papers.HE_2015,
    "plain": papers.HE_2015,
    "preresnet": papers.HE_2016,
    "resnext": papers.XIE_2016,
    "wide resnet": papers.ZAGORUYKO_2016,
    "densenet": papers.HUANG_2017,
    "highway": papers.SRIVASTAVA_2015,
    "vgg": papers.SIMONYAN_2014,
}

# Of the CIFAR-10 training images, for pixels in [0, 1].
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A named network with its published figures."""

    spec: ModelSpec
    family: str
    """As a person calls it; several families share an architecture."""
    paper: str
    num_parameters: int
    gmacs: float
    """Multiply-adds of convolutions and linear layers for one image, in units of 10^9."""
    top1_percent: float | None = None
    error_percent: float | None = None
    error_on: str = "CIFAR-10"
    """The test set of `error_percent`, and how it was measured where papers differ."""
    other_figure: str = ""
    """A second one, of the same network trained in another way."""

    @property
    def published(self) -> str:
        """The published figure as a person reads it, or an empty string."""
        if self.top1_percent is not None:
            return f"{self.top1_percent:.2f} % top-1, ImageNet"
        if self.error_percent is None:
            return ""
        return f"{self.error_percent:.2f} % error, {self.error_on}" + (
            f"; {self.other_figure}" * bool(self.other_figure)
        )


def variant(name: str) -> Variant:
    """Return the variant of that name.

    Raises:
        UsageError: there is none; the message offers the nearest names.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(f"no model named {name!r}{nearest(name, VARIANTS)} (`resx models` lists all)") from None


def kind_of(text: str) -> Literal["run", "variant", "foreign", "onnx"]:
    """Say what the user named, before anything heavy is imported.

    A run's folder, a variant, an .onnx file, or a foreign network (`resx.zoo.foreign_names`).

    Raises:
        UsageError: it is none of them.
    """
    folder = Path(text)
    if (folder / SPEC_FILE).is_file():
        return "run"
    if text.partition(":")[0] in COLLECTIONS and ":" in text:
        require_foreign_name(text)
        return "foreign"
    if names_onnx_file(text):
        if not folder.is_file():
            what = "is a folder" if folder.is_dir() else "no such file"
            raise UsageError(f"{text}: {what}; give the path of an .onnx file")
        return "onnx"
    if ":" in text:
        require_foreign_name(text)
        return "foreign"
    if text not in VARIANTS and (folder.is_dir() or "/" in text):
        what = f"has no {SPEC_FILE}" if folder.is_dir() else "is not there"
        raise UsageError(
            f"{text}: not a run ({what}); give a run's folder, an .onnx file or a name that `resx models` lists"
        )
    variant(text)
    return "variant"


def default_name(source: str) -> str:
    """Return what a model is called in a repository if nobody says: as its variant, its run or its file.

    Raises:
        UsageError: the text names no source.
    """
    kind = kind_of(source)
    if kind == "run":
        return Path(source).resolve().name
    return Path(source).stem if kind == "onnx" else short_name(source)


def module_of(text: str) -> str:
    """Return the module that loading a source would import and run; empty where it is data, or a collection's."""
    module = text.partition(":")[0]
    try:
        return module if kind_of(text) == "foreign" and module not in COLLECTIONS else ""
    except UsageError:  # it cannot be loaded at all
        return ""


def names_onnx_file(text: str) -> bool:
    """Say whether a name is that of an .onnx file, in whatever case its suffix is written."""
    return Path(text).suffix.lower() == ".onnx"


def _imagenet(name: str, architecture: Architecture, *, resize: int = 256) -> ModelSpec:
    return ModelSpec(
        name=name,
        architecture=architecture,
        classes=1000,
        image_size=224,
        resize=resize,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


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


def _published(
    family: str,
    name: str,
    architecture: Architecture,
    parameters: int,
    gmacs: float,
    top1: float,
    *,
    resize: int = 256,
) -> Variant:
    """Make an ImageNet variant that torchvision has weights for."""
    return Variant(
        spec=_imagenet(name, architecture, resize=resize),
        family=family,
        paper=PAPERS[family].citation,
        num_parameters=parameters,
        gmacs=gmacs,
        top1_percent=top1,
    )


def _on_imagenet(
    family: str,
    name: str,
    architecture: Architecture,
    parameters: int,
    gmacs: float,
    error: float | None = None,
    error_on: str = "ImageNet",
) -> Variant:
    """Make an ImageNet variant without published weights."""
    return Variant(
        spec=_imagenet(name, architecture),
        family=family,
        paper=PAPERS[family].citation,
        num_parameters=parameters,
        gmacs=gmacs,
        error_percent=error,
        error_on=error_on,
    )


def _on_cifar(
    family: str,
    name: str,
    architecture: Architecture,
    parameters: int,
    gmacs: float,
    error: float | None = None,
    other_figure: str = "",
) -> Variant:
    return Variant(
        spec=_cifar(name, architecture),
        family=family,
        paper=PAPERS[family].citation,
        num_parameters=parameters,
        gmacs=gmacs,
        error_percent=error,
        other_figure=other_figure,
    )


def _dense(blocks: tuple[int, ...], growth: int, stem: int) -> DenseNetArchitecture:
    return DenseNetArchitecture(block_depths=blocks, growth_rate=growth, stem_width=stem)


# fmt: off
_ALL = [
    _published("resnet", "resnet18", depths.resnet(18), 11_689_512, 1.814, 69.758),
    _published("resnet", "resnet34", depths.resnet(34), 21_797_672, 3.664, 73.314),
    _published("resnet", "resnet50", depths.resnet(50), 25_557_032, 4.089, 80.858, resize=232),
    _published("resnet", "resnet101", depths.resnet(101), 44_549_160, 7.801, 81.886, resize=232),
    _published("resnet", "resnet152", depths.resnet(152), 60_192_808, 11.514, 82.284, resize=232),
    _on_cifar("resnet", "resnet20", depths.resnet_cifar(20), 269_722, 0.041, 8.75),
    _on_cifar("resnet", "resnet32", depths.resnet_cifar(32), 464_154, 0.069, 7.51),
    _on_cifar("resnet", "resnet44", depths.resnet_cifar(44), 658_586, 0.097, 7.17),
    _on_cifar("resnet", "resnet56", depths.resnet_cifar(56), 853_018, 0.125, 6.97),
    _on_cifar("resnet", "resnet110", depths.resnet_cifar(110), 1_727_962, 0.253, 6.43),
    _on_cifar("resnet", "resnet1202", depths.resnet_cifar(1202), 19_421_274, 2.829, 7.93,
              f"4.91 % with stochastic depth, {papers.HUANG_2016.citation}"),
    _on_imagenet("plain", "plain18", depths.plain(18), 11_515_688, 1.795, 27.94, "ImageNet, 10-crop"),
    _on_imagenet("plain", "plain34", depths.plain(34), 21_623_848, 3.644, 28.54, "ImageNet, 10-crop"),
    _on_cifar("plain", "plain20", depths.plain_cifar(20), 269_722, 0.041),
    _on_cifar("plain", "plain56", depths.plain_cifar(56), 853_018, 0.125),
    _on_imagenet("preresnet", "preresnet18", depths.preresnet(18), 11_687_720, 1.814),
    _on_imagenet("preresnet", "preresnet34", depths.preresnet(34), 21_795_880, 3.664),
    _on_imagenet("preresnet", "preresnet50", depths.preresnet(50), 25_549_352, 4.089),
    _on_imagenet("preresnet", "preresnet101", depths.preresnet(101), 44_541_480, 7.801),
    _on_imagenet("preresnet", "preresnet152", depths.preresnet(152), 60_185_128, 11.514, 21.1, "ImageNet, 320 px"),
    _on_imagenet("preresnet", "preresnet200", depths.preresnet(200), 64_666_152, 15.007, 20.7, "ImageNet, 320 px"),
    _on_cifar("preresnet", "preresnet110", depths.preresnet_cifar(110, block="basic"), 1_727_962, 0.253, 6.37),
    _on_cifar("preresnet", "preresnet164", depths.preresnet_cifar(164, block="bottleneck"), 1_703_258, 0.248, 5.46),
    _on_cifar("preresnet", "preresnet1001", depths.preresnet_cifar(1001, block="bottleneck"), 10_327_706, 1.491, 4.92),
    _published("resnext", "resnext50_32x4d", depths.resnext(50, cardinality=32, group_width=4),
               25_028_904, 4.23, 81.198, resize=232),
    _published("resnext", "resnext101_32x8d", depths.resnext(101, cardinality=32, group_width=8),
               88_791_336, 16.414, 82.834, resize=232),
    _published("resnext", "resnext101_64x4d", depths.resnext(101, cardinality=64, group_width=4),
               83_455_272, 15.46, 83.246, resize=232),
    _on_cifar("resnext", "resnext29_8x64d", depths.resnext_cifar(29, cardinality=8, group_width=64),
              34_426_698, 5.387, 3.65),
    _on_cifar("resnext", "resnext29_16x64d", depths.resnext_cifar(29, cardinality=16, group_width=64),
              68_155_210, 10.689, 3.58),
    _published("wide resnet", "wide_resnet50_2", depths.wide_resnet(50, factor=2),
               68_883_240, 11.398, 81.602, resize=232),
    _published("wide resnet", "wide_resnet101_2", depths.wide_resnet(101, factor=2),
               126_886_696, 22.753, 82.51, resize=232),
    _published("densenet", "densenet121", _dense((6, 12, 24, 16), 32, 64), 7_978_856, 2.834, 74.434),
    _published("densenet", "densenet169", _dense((6, 12, 32, 32), 32, 64), 14_149_480, 3.36, 75.6),
    _published("densenet", "densenet201", _dense((6, 12, 48, 32), 32, 64), 20_013_928, 4.291, 76.896),
    _published("densenet", "densenet161", _dense((6, 12, 36, 24), 48, 96), 28_681_000, 7.728, 77.138),
    _on_cifar("densenet", "densenet40_12", depths.densenet_cifar(40, growth_rate=12), 1_019_722, 0.265, 5.24),
    _on_cifar("densenet", "densenet_bc_100_12", depths.densenet_bc_cifar(100, growth_rate=12), 769_162, 0.288, 4.51),
    _on_cifar("densenet", "densenet_bc_190_40", depths.densenet_bc_cifar(190, growth_rate=40), 25_624_430, 9.302, 3.46),
    _on_cifar("highway", "highway19", depths.highway(19), 2_256_838, 0.331, 7.60),
    _on_cifar("highway", "highway32", depths.highway(32), 1_253_090, 0.219),
    _published("vgg", "vgg16", depths.vgg(16, batch_norm=False), 138_357_544, 15.47, 71.592),
    _published("vgg", "vgg19", depths.vgg(19, batch_norm=False), 143_667_240, 19.632, 72.376),
    _published("vgg", "vgg16_bn", depths.vgg(16, batch_norm=True), 138_365_992, 15.47, 73.36),
    _published("vgg", "vgg19_bn", depths.vgg(19, batch_norm=True), 143_678_248, 19.632, 74.218),
]
# fmt: on
VARIANTS: dict[str, Variant] = {entry.spec.name: entry for entry in _ALL}
