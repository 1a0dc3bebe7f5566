"""What a network is made of: one frozen value per family, told apart by `family`. Needs no torch.

A value that no network can be built from is refused when it is made. `resx.zoo.depths` makes these values
from the numbers that the papers name them by.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import pydantic
from pydantic import Field

from resx.errors import UsageError
from resx.values import FrozenModel
from resx.zoo.limits import (
    MAX_BLOCKS,
    MAX_CHANNELS,
    MAX_STAGES,
    dense_weights,
    plain_weights,
    require_size,
    residual_weights,
)

Channels: TypeAlias = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
Depths: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_BLOCKS)], ...], Field(min_length=1, max_length=MAX_STAGES)
]
Widths: TypeAlias = Annotated[tuple[Channels, ...], Field(min_length=1, max_length=MAX_STAGES)]
Stem: TypeAlias = Literal["imagenet", "cifar"]
BottleneckForm: TypeAlias = Literal["aggregated", "concatenated", "grouped"]
Shortcut: TypeAlias = Literal["projection", "padding", "pooling"]
"""What a shortcut is where the shape changes: a 1x1 convolution (option B of He et al. 2015), every second pixel with
channels of zeros (option A), or 2x2 average pooling with channels of zeros (Huang et al. 2016)."""
ReceptiveField: TypeAlias = Literal[1, 3]
Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
BlockVariant: TypeAlias = Literal[
    "original", "bn_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation"
]


class DescribedNetwork(FrozenModel):
    """What every description answers; a family says where it differs."""

    @property
    def undroppable(self) -> str:
        """Why no block can be dropped in training; empty where every one can."""
        return ""

    @property
    def removable_blocks(self) -> tuple[int, ...]:
        """Blocks, counted from 1, without which the network can be built."""
        return ()

    @property
    def unremovable(self) -> str:
        """Why some blocks, or all, are not in `removable_blocks`."""
        return self.undroppable

    @property
    def smallest_image(self) -> int:
        """Pixels; padded convolutions never shrink an image to nothing."""
        return 1


class ResNetArchitecture(DescribedNetwork):
    """Residual networks with the activation after the addition (He et al. 2015), and their relatives.

    Those are ResNeXt (Xie et al. 2016), wide bottlenecks (Zagoruyko and Komodakis 2016), and the plain networks that
    He et al. compare with.
    """

    family: Literal["resnet"] = "resnet"
    block: Literal["basic", "bottleneck"]
    stage_depths: Depths
    """Blocks per stage; every stage after the first halves the image and doubles the channels."""
    width: Channels = 64
    """Channels of the stem; a basic block of the first stage gives `width`, a bottleneck `4 * width`."""
    inner_width: Channels = 64
    """Channels of the first stage's 3x3 convolution in a bottleneck, all groups together."""
    cardinality: Channels = 1
    """Groups of the bottleneck's 3x3 convolution (ResNeXt); 1 is the ResNet."""
    form: BottleneckForm = "grouped"
    """Which of the three equivalent forms of ResNeXt's figure 3 the bottleneck is written in: a, b or c."""
    stem: Stem = "imagenet"
    """`imagenet`: 7x7 stride 2 and max pooling; `cifar`: one 3x3 convolution."""
    shortcut: Shortcut | Literal["none"] = "projection"
    """Where the shape changes: `projection` is a 1x1 convolution with batch norm (option B), `padding` every second
    pixel and zero channels (option A), `pooling` 2x2 average pooling and zero channels (stochastic depth's paper);
    `none` leaves out every shortcut: the plain network."""

    @property
    def num_blocks(self) -> int:
        """L of the survival schedule."""
        return sum(self.stage_depths)

    @property
    def num_features(self) -> int:
        """Channels before the classifier."""
        return self.width * 2 ** (len(self.stage_depths) - 1) * (4 if self.block == "bottleneck" else 1)

    @property
    def undroppable(self) -> str:
        """Why no block can be dropped, or an empty string."""
        return "a plain network has no shortcut around a dropped block" if self.shortcut == "none" else ""

    @property
    def removable_blocks(self) -> tuple[int, ...]:
        """Blocks, counted from 1, without which the network can be built: those that keep the shape.

        A block's input has been through a ReLU, so ReLU(x) = x and nothing is left of a dropped block.
        """
        return () if self.shortcut == "none" else _shape_keeping(self.stage_depths, grows=self.block == "bottleneck")

    @property
    def unremovable(self) -> str:
        """Why some blocks, or all, are not in `removable_blocks`."""
        return self.undroppable or _CHANGES_SHAPE

    @pydantic.model_validator(mode="after")
    def _is_not_too_large(self) -> ResNetArchitecture:
        outer, inner = (self.width, 0) if self.block == "basic" else (4 * self.width, self.inner_width)
        num_weights = residual_weights(self.stage_depths, outer, inner, 9 / self.cardinality)
        num_paths = 0 if self.form == "grouped" else self.num_blocks * self.cardinality
        require_size(num_weights=num_weights, num_blocks=self.num_blocks, num_paths=num_paths)
        return self

    @pydantic.model_validator(mode="after")
    def _fits(self) -> ResNetArchitecture:
        if self.inner_width % self.cardinality:
            raise UsageError(
                f"cardinality={self.cardinality}: does not divide the {self.inner_width} channels of the bottleneck's "
                "3x3 convolution; give a divisor"
            )
        if self.block == "basic" and (self.cardinality, self.form) != (1, "grouped"):
            raise UsageError(f"cardinality={self.cardinality}: a basic block has no paths; give block bottleneck")
        if self.shortcut == "none" and self.block != "basic":
            raise UsageError("shortcut=none: the plain networks have basic blocks; give block basic")
        return self


class PreResNetArchitecture(DescribedNetwork):
    """Residual networks with identity shortcuts from first to last block (He et al. 2016)."""

    family: Literal["preresnet"] = "preresnet"
    block: Literal["basic", "bottleneck"]
    stage_depths: Depths
    """Blocks per stage; every stage after the first halves the image and doubles the channels."""
    width: Channels = 64
    """Channels of the stem and of the first stage's 3x3 convolutions; a bottleneck gives `4 * width`."""
    variant: BlockVariant = "full_preactivation"
    """Figure 4, (a) to (e): where batch norm and ReLU stand."""
    stem: Stem = "imagenet"
    shortcut: Shortcut = "projection"
    """Where the shape changes: `projection` is a 1x1 convolution, `padding` every second pixel and zero channels,
    `pooling` 2x2 average pooling and zero channels."""

    @property
    def num_blocks(self) -> int:
        """L of the survival schedule."""
        return sum(self.stage_depths)

    @property
    def num_features(self) -> int:
        """Channels before the classifier."""
        return self.width * 2 ** (len(self.stage_depths) - 1) * (4 if self.block == "bottleneck" else 1)

    @property
    def removable_blocks(self) -> tuple[int, ...]:
        """Blocks, counted from 1, without which the network can be built: those that keep the shape."""
        if self.variant == "bn_after_addition":
            return ()
        return _shape_keeping(self.stage_depths, grows=self.block == "bottleneck")

    @property
    def unremovable(self) -> str:
        """Why some blocks, or all, are not in `removable_blocks`."""
        if self.variant == "bn_after_addition":
            return "a batch norm after the addition is left of a dropped block"
        return _CHANGES_SHAPE

    @pydantic.model_validator(mode="after")
    def _is_not_too_large(self) -> PreResNetArchitecture:
        outer, inner = (self.width, 0) if self.block == "basic" else (4 * self.width, self.width)
        require_size(num_weights=residual_weights(self.stage_depths, outer, inner, 9), num_blocks=self.num_blocks)
        return self


class DenseNetArchitecture(DescribedNetwork):
    """Densely connected networks (Huang et al. 2017, section 3)."""

    family: Literal["densenet"] = "densenet"
    block_depths: Depths
    """Layers per dense block."""
    growth_rate: Channels
    """k: channels that each layer adds."""
    stem_width: Channels
    """Channels before the first dense block."""
    bottleneck: int = Field(default=4, ge=0, le=1024)
    """A layer's 1x1 convolution gives `bottleneck * growth_rate` channels (DenseNet-B); 0: it has none."""
    compression: float = Field(default=0.5, gt=0, le=1, allow_inf_nan=False)
    """theta: the share of channels that a transition passes on (DenseNet-C); 1 passes all."""
    stem: Stem = "imagenet"
    recompute: bool = False
    """Train with memory that grows linearly with depth: a layer's input is concatenated again in the
    backward pass instead of kept. Changes no result, costs about one more forward pass."""
    dropout: Dropout = 0.0
    """Probability that a value is lost in training, behind every convolution but the first; the paper takes 0.2 where
    the images are not augmented."""

    @property
    def num_blocks(self) -> int:
        """L of the survival schedule: here a layer is what can be dropped."""
        return sum(self.block_depths)

    @property
    def num_features(self) -> int:
        """Channels before the classifier, at most: a transition leaves some out."""
        return self.stem_width + self.growth_rate * sum(self.block_depths)

    @property
    def unremovable(self) -> str:
        """Why no layer is in `removable_blocks`."""
        return "the layers behind a dense layer take its channels"

    @property
    def smallest_image(self) -> int:
        """Pixels: every transition halves the image, rounding down; the ImageNet stem quarters it, rounding up."""
        before_transitions = 2 ** (len(self.block_depths) - 1)
        return before_transitions if self.stem == "cifar" else 4 * before_transitions - 3

    @pydantic.model_validator(mode="after")
    def _is_not_too_large(self) -> DenseNetArchitecture:
        num_weights = dense_weights(self.block_depths, self.growth_rate, self.stem_width, self.bottleneck)
        require_size(num_weights=num_weights, num_blocks=self.num_blocks)
        return self


class HighwayArchitecture(DescribedNetwork):
    """Convolutional highway networks (Srivastava et al. 2015, arXiv:1507.06228)."""

    family: Literal["highway"] = "highway"
    stage_depths: Depths
    """Convolutional layers per stage: a plain one that sets the width, and highway layers behind it."""
    stage_widths: Widths
    """Channels per stage; max pooling halves the image between stages."""
    gate_bias: float = Field(default=-2.0, lt=0, ge=-1000, allow_inf_nan=False)
    """Initial bias of the transform gates: negative, so that layers begin by carrying their input."""
    receptive_fields: Annotated[tuple[ReceptiveField, ...], Field(min_length=1, max_length=MAX_BLOCKS)] = (3,)
    """Pixels each way that a stage's layers see, first to last and then again from the first: (3, 1) alternates."""
    head_width: int = Field(default=0, ge=0, le=MAX_CHANNELS)
    """Channels of a 1x1 convolution with ReLU between the last stage and the average pooling; 0: there is none."""
    dropout: Dropout = 0.0
    """Probability that a value is lost in training, before each stage and before the classifier."""

    @property
    def num_blocks(self) -> int:
        """L of the survival schedule: the highway layers."""
        return sum(self.stage_depths) - len(self.stage_depths)

    @property
    def num_features(self) -> int:
        """Channels before the classifier."""
        return self.head_width or self.stage_widths[-1]

    @property
    def removable_blocks(self) -> tuple[int, ...]:
        """Highway layers, counted from 1, without which the network can be built: all of them."""
        return tuple(range(1, self.num_blocks + 1))

    @property
    def smallest_image(self) -> int:
        """Pixels: halved between stages, rounding down."""
        return 2 ** (len(self.stage_depths) - 1)

    @pydantic.model_validator(mode="after")
    def _fits(self) -> HighwayArchitecture:
        _require_width_each(self.stage_widths, self.stage_depths)
        num_weights = 2 * plain_weights(self.stage_depths, self.stage_widths)  # a layer has a gate beside it
        num_weights += float(self.stage_widths[-1]) * self.head_width
        require_size(num_weights=num_weights, num_blocks=sum(self.stage_depths))
        if self.num_blocks == 0:
            raise UsageError(f"stage_depths={self.stage_depths}: no highway layer; give a stage 2 layers or more")
        return self


class VGGArchitecture(DescribedNetwork):
    """Networks without shortcuts, for contrast (Simonyan and Zisserman 2014)."""

    family: Literal["vgg"] = "vgg"
    stage_depths: Depths
    """3x3 convolutions per stage; max pooling halves the image after each stage."""
    stage_widths: Widths
    batch_norm: bool = False
    hidden_width: Channels = 4096
    """Of the two fully connected layers before the last."""

    @property
    def num_blocks(self) -> int:
        """Convolutional layers; none can be dropped."""
        return sum(self.stage_depths)

    @property
    def num_features(self) -> int:
        """Channels before the classifier."""
        return self.hidden_width

    @property
    def undroppable(self) -> str:
        """Why no block can be dropped."""
        return "VGG has no shortcut around a dropped layer"

    @property
    def smallest_image(self) -> int:
        """Pixels: halved after every stage, rounding down."""
        return 2 ** len(self.stage_depths)

    @pydantic.model_validator(mode="after")
    def _fits(self) -> VGGArchitecture:
        _require_width_each(self.stage_widths, self.stage_depths)
        num_weights = plain_weights(self.stage_depths, self.stage_widths)
        num_weights += self.hidden_width * (49.0 * self.stage_widths[-1] + self.hidden_width)
        require_size(num_weights=num_weights, num_blocks=self.num_blocks)
        return self


class ForeignArchitecture(DescribedNetwork):
    """A third party's network: resx exports and serves it, but cannot build it from this value.

    That keeps a spec read from JSON from calling a function that the JSON names.
    """

    family: Literal["foreign"] = "foreign"
    source: str
    """Source as given: `torchvision:NAME`, `timm:NAME`, `hf:ORG/NAME` or `module:function`."""

    @property
    def num_blocks(self) -> int:
        """None that resx knows of."""
        return 0

    @property
    def num_features(self) -> int:
        """None that resx knows of."""
        return 0

    @property
    def undroppable(self) -> str:
        """Why no block can be dropped."""
        return "its block structure is unknown"


Architecture: TypeAlias = Annotated[
    ResNetArchitecture
    | PreResNetArchitecture
    | DenseNetArchitecture
    | HighwayArchitecture
    | VGGArchitecture
    | ForeignArchitecture,
    Field(discriminator="family"),
]

_CHANGES_SHAPE = "a block that changes the shape must stay"


def _shape_keeping(stage_depths: Depths, *, grows: bool) -> tuple[int, ...]:
    """Return the blocks whose output has their input's shape; `grows`: the very first one widens the stem's output."""
    first_of_stages = [1 + sum(stage_depths[:stage]) for stage in range(len(stage_depths))]
    changing = first_of_stages if grows else first_of_stages[1:]
    return tuple(block for block in range(1, sum(stage_depths) + 1) if block not in changing)


def _require_width_each(stage_widths: Widths, stage_depths: Depths) -> None:
    if len(stage_widths) != len(stage_depths):
        raise UsageError(f"stage_widths={stage_widths}: give one per stage, {len(stage_depths)} as in stage_depths")
