"""What is exported, trained or verified: where its weights come from, and what its file does not say itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.grouping import rare_option
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.card.origin import FileArguments, SourceArguments

_option = partial(typer.Option, rich_help_panel="Source")
_OF_A_FILE = ("mean", "std", "labels", "output_name")
_OF_A_RUN = ("weights", "weights_entry", "settings", "image_size")
"""What a run has itself."""

Weights: TypeAlias = Annotated[
    str,
    _option(metavar="WORD|FILE", help="For a variant, torchvision: or timm:: none (random), imagenet, or a file."),
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
    int | None,
    _option(
        min=1,
        max=4096,
        metavar="N",
        help="Image size in pixels, for torchvision:, timm:, hf:, module: or a file that leaves it open.",
    ),
]
Mean: TypeAlias = Annotated[
    str,
    _option(metavar="R,G,B", help="For an .onnx file of float input: mean of pixels in [0, 1]. Default: ImageNet's."),
]
Std: TypeAlias = Annotated[str, _option(metavar="R,G,B", help="As --mean: the standard deviation.")]
Labels: TypeAlias = Annotated[str, _option(metavar="FILE", help="For an .onnx file: a text file, one label a line.")]
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
    image_size: ImageSize = None
    mean: Mean = ""
    std: Std = ""
    labels: Labels = ""
    output_name: OutputName = ""

    def arguments(self, source: str, *, seed: int) -> SourceArguments:
        """Return what loads the source.

        Raises:
            UsageError: an option is for an .onnx file and the source is none, or a value is no mean or deviation.
        """
        from resx.card.origin import SourceArguments

        return SourceArguments(
            source=source,
            weights=self.weights,
            seed=seed,
            image_size=self.image_size,
            settings=tuple(self.settings or ()),
            weights_entry=self.weights_entry,
            file=self._file_arguments(source),
        )

    def _file_arguments(self, source: str) -> FileArguments:
        from resx.card.origin import FileArguments
        from resx.zoo.catalog import kind_of
        from resx.zoo.spec import parse_channels

        if kind_of(source) != "onnx" and any(getattr(self, name) for name in _OF_A_FILE):
            raise UsageError(
                f"--mean, --std, --labels, --output-name: {source} has its own; these options are for .onnx files"
            )
        return FileArguments(
            mean=parse_channels("--mean", self.mean, is_std=False) if self.mean else None,
            std=parse_channels("--std", self.std, is_std=True) if self.std else None,
            labels=self.labels,
            output=self.output_name,
        )


def require_own_source(typed: Mapping[str, str], source: str) -> None:
    """Refuse options for what a run has itself.

    Raises:
        UsageError: one was typed.
    """
    for name in _OF_A_RUN:
        if name in typed:
            raise UsageError(f"{typed[name]}: {source} has its own; remove the option")
