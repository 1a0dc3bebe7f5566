"""What a network is, as a frozen value that travels as JSON beside the weights. Needs no torch.

An architecture is one value per family, told apart by `family`; everything else (classes, image,
survival) is common to all. `build_from_spec` turns a spec into a module; equal specs give equal modules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from resx.errors import UsageError

Channels: TypeAlias = tuple[float, float, float]

SPEC_FILE = "spec.json"

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


class FrozenModel(BaseModel):
    """A value read from JSON: immutable, and any field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ResNetArchitecture(FrozenModel):
    """Residual networks with the activation after the addition (He et al. 2015; Xie et al. 2016)."""

    family: Literal["resnet"] = "resnet"
    block: Literal["basic", "bottleneck"]
    stage_depths: tuple[int, ...] = Field(min_length=1)
    """Blocks per stage; every stage after the first halves the image and doubles the channels."""
    width: int = Field(default=64, ge=1)
    """Channels of the first stage's convolutions."""
    cardinality: int = Field(default=1, ge=1)
    """Groups of the bottleneck's 3x3 convolution (ResNeXt); 1 is the plain ResNet."""
    group_width: int = Field(default=64, ge=1)
    """Channels per group in the first stage, in a bottleneck block."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: 7x7 stride 2 and max pooling; `cifar`: one 3x3 convolution."""
    shortcut: Literal["projection", "padding"] = "projection"
    """Where the shape changes: a 1x1 convolution (option B), or strides and zero channels (option A)."""

    @property
    def num_blocks(self) -> int:
        """L of the survival schedule."""
        return sum(self.stage_depths)


class DenseNetArchitecture(FrozenModel):
    """Densely connected networks with bottleneck and compression (Huang et al. 2017, section 3)."""

    family: Literal["densenet"] = "densenet"
    block_depths: tuple[int, ...] = Field(min_length=1)
    """Layers per dense block."""
    growth_rate: int = Field(ge=1)
    """k: channels that each layer adds."""
    stem_width: int = Field(ge=1)
    """Channels before the first dense block."""
    bottleneck: int = Field(default=4, ge=1)
    """A layer's 1x1 convolution gives `bottleneck * growth_rate` channels."""

    @property
    def num_blocks(self) -> int:
        """L of the survival schedule: here a layer is what can be dropped."""
        return sum(self.block_depths)


Architecture: TypeAlias = Annotated[ResNetArchitecture | DenseNetArchitecture, Field(discriminator="family")]


class ModelSpec(FrozenModel):
    """A network, ready to be built: architecture, classes, image and survival schedule."""

    name: str
    """The variant's name; it travels into file names and the model's metadata."""
    architecture: Architecture
    classes: int = Field(ge=2)
    labels: tuple[str, ...] = ()
    """One name per class, or none where they are not known."""
    image_size: int = Field(ge=8)
    """Height and width of the input in pixels."""
    resize: int = Field(ge=8)
    """The shorter side is brought to this many pixels before the centre crop of `image_size`."""
    mean: Channels
    """Of each channel, for pixels in [0, 1]."""
    std: Channels
    survival: float = Field(default=1.0, gt=0.0, le=1.0)
    """p_L, the last block's survival probability; 1 is constant depth."""

    @pydantic.model_validator(mode="after")
    def _labels_fit_classes(self) -> ModelSpec:
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes: give one per class, or none")
        return self

    def with_changes(
        self,
        *,
        classes: int | None = None,
        survival: float | None = None,
        labels: tuple[str, ...] | None = None,
        image: ImageFormat | None = None,
    ) -> ModelSpec:
        """Return this spec with the given fields replaced and everything checked again.

        Raises:
            UsageError: a value is out of its range.
        """
        if survival is not None and not 0 < survival <= 1:
            raise UsageError(f"survival={survival}: give a probability in (0, 1]")
        if classes is not None and classes < 2:
            raise UsageError(f"classes={classes}: give 2 or more")
        fields = self.model_dump()
        if classes is not None and classes != self.classes:
            fields |= {"classes": classes, "labels": ()}
        if survival is not None:
            fields["survival"] = survival
        if labels is not None:
            fields["labels"] = labels
        if image is not None:
            fields |= image.model_dump()
        return ModelSpec.model_validate(fields)


class ImageFormat(FrozenModel):
    """How a data set's images reach the network: size in pixels, resize before the crop, normalisation."""

    image_size: int
    resize: int
    mean: Channels
    std: Channels


def survival_probabilities(num_blocks: int, last: float) -> list[float]:
    """Return p_l = 1 - l/L (1 - p_L) for l = 1..L: the linear decay of Huang et al. 2016, equation 4.

    The expected number of surviving blocks is their sum, about 3/4 L for p_L = 0.5.
    """
    assert 0 < last <= 1, last
    return [1.0 - block / num_blocks * (1.0 - last) for block in range(1, num_blocks + 1)]


def read_spec(path: Path) -> ModelSpec:
    """Read a spec from its JSON file.

    Raises:
        UsageError: the file is missing, is no JSON, or does not describe a network.
    """
    try:
        return ModelSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; a run folder has this file") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise UsageError(f"{path}: {where}: {first['msg']}; train or copy the run again") from error
