"""What is exported, trained or verified: where its weights come from, and what its file does not say itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.grouping import rare_option
from resx.cli.options.validation import choose
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.card.origin import FileArguments, HeightWidth, SourceArguments

_option = partial(typer.Option, rich_help_panel="Source")
_OF_A_FILE = ("mean", "std", "layout", "channels", "pixel_max", "labels", "output_name")
_OF_A_RUN = ("weights", "weights_entry", "settings", "image_size")
"""What a run has itself."""

Weights: TypeAlias = Annotated[
    str,
    _option(
        metavar="WORD|FILE", help="none (random), imagenet or a file; for a variant, torchvision:NAME or timm:NAME."
    ),
]
WeightsEntry: TypeAlias = Annotated[
    str, _option(metavar="NAME", help="For --weights FILE: which of its networks. Default: the only one, or the EMA.")
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "--set",
        metavar="FIELD=VALUE",
        help="classes=N, or a field of the variant's architecture (see `resx info NAME`). Repeatable.",
    ),
]
ImageSize: TypeAlias = Annotated[
    str,
    _option(
        metavar="N|HxW",
        help="Image size in pixels, for torchvision:, timm:, hf:, module: or an .onnx file (HxW: a file alone).",
    ),
]
Mean: TypeAlias = Annotated[
    str,
    _option(
        metavar="R,G,B",
        help="For an .onnx file of float images: mean of pixels from 0 to --pixel-max. Default: ImageNet's.",
    ),
]
Std: TypeAlias = Annotated[str, _option(metavar="R,G,B", help="As --mean: the standard deviation.")]
Labels: TypeAlias = Annotated[str, _option(metavar="FILE", help="For an .onnx file: a text file, one label a line.")]
LayoutName: TypeAlias = Annotated[
    str,
    _option(
        "--layout",
        metavar="[nchw|nhwc]",
        help="For an .onnx file: channels first or last in its input. Default: by the shape.",
    ),
]
ChannelsName: TypeAlias = Annotated[
    str, _option("--channels", metavar="[rgb|bgr]", help="For an .onnx file: the order of its channels. Default: rgb.")
]
PixelMaxNumber: TypeAlias = Annotated[
    str,
    _option(
        "--pixel-max",
        metavar="[1|255]",
        help="For an .onnx file of float images: the value of white. 255: no normalization but --mean and --std.",
    ),
]
OutputName: TypeAlias = Annotated[
    str, _option("--output-name", metavar="NAME", help="For an .onnx file: which of its outputs to keep.")
]
AllowCode: TypeAlias = Annotated[
    list[str] | None,
    rare_option("--allow-code", metavar="MODULE", help="Allow the card to run a function of this module. Repeatable."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """Where the weights come from, and what a third party's file does not say."""

    weights: Weights = "none"
    weights_entry: WeightsEntry = ""
    settings: Settings = None
    image_size: ImageSize = ""
    mean: Mean = ""
    std: Std = ""
    layout: LayoutName = ""
    channels: ChannelsName = ""
    pixel_max: PixelMaxNumber = ""
    labels: Labels = ""
    output_name: OutputName = ""

    def arguments(self, source: str, *, seed: int) -> SourceArguments:
        """Return what loads the source.

        Raises:
            UsageError: an option is for an .onnx file and the source is none, or a value cannot be used.
        """
        from resx.card.origin import SourceArguments

        return SourceArguments(
            source=source,
            weights=self.weights,
            seed=seed,
            image_size=_parse_size(self.image_size) if self.image_size else None,
            settings=tuple(self.settings or ()),
            weights_entry=self.weights_entry,
            file=self._file_arguments(source),
        )

    def _file_arguments(self, source: str) -> FileArguments:
        from resx.card.kinds import CHANNEL_ORDERS, LAYOUTS, PIXEL_MAXIMA
        from resx.card.origin import FileArguments
        from resx.zoo.catalog import kind_of
        from resx.zoo.spec import parse_channels

        if kind_of(source) != "onnx" and any(getattr(self, name) for name in _OF_A_FILE):
            names = ", ".join("--" + name.replace("_", "-") for name in _OF_A_FILE)
            raise UsageError(f"{names}: {source} has its own; these options are for .onnx files")
        maxima = {str(number): number for number in PIXEL_MAXIMA}
        return FileArguments(
            mean=parse_channels("--mean", self.mean, is_std=False) if self.mean else None,
            std=parse_channels("--std", self.std, is_std=True) if self.std else None,
            layout=choose("--layout", self.layout, LAYOUTS) if self.layout else None,
            channels=choose("--channels", self.channels or "rgb", CHANNEL_ORDERS),
            pixel_max=maxima[choose("--pixel-max", self.pixel_max or "1", tuple(maxima))],
            labels=self.labels,
            output=self.output_name,
        )


def _parse_size(text: str) -> int | HeightWidth:
    """Return pixels each way, or height and width where they differ.

    Raises:
        UsageError: they are no such numbers.
    """
    from resx.zoo.limits import MAX_IMAGE_SIZE

    parts = text.lower().split("x")
    sides = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(sides) != len(parts) or len(sides) > 2 or not all(1 <= side <= MAX_IMAGE_SIZE for side in sides):
        raise UsageError(
            f"--image-size {text}: give pixels from 1 to {MAX_IMAGE_SIZE}, as 224, or height and width, as 48x192"
        )
    height, width = sides[0], sides[-1]
    return height if height == width else (height, width)


def require_own_source(typed: Mapping[str, str], source: str) -> None:
    """Refuse options for what a run has itself.

    Raises:
        UsageError: one was typed.
    """
    for name in _OF_A_RUN:
        if name in typed:
            raise UsageError(f"{typed[name]}: {source} has its own; remove the option")
