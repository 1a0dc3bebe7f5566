"""What a model takes and gives: names, shapes, types, and what its pixels must be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from resx.card.image_form import as_float, order_channels
from resx.card.kinds import (
    MAX_VALUES,
    BatchSize,
    ChannelOrder,
    Dims,
    InputType,
    Layout,
    OutputKind,
    PixelMax,
)
from resx.errors import UsageError
from resx.names import TENSOR_RULE, is_tensor_name
from resx.text import one_line
from resx.values import FrozenModel
from resx.zoo.spec import Channels, Crop, Interpolation, Labels, ModelSpec, Resize, require_divisors

if TYPE_CHECKING:
    from PIL import Image


_PIXEL_INPUTS = ("image", "pixels", "rgb")
"""Names of the input that resx puts in front of a file: the first that the file's own do not have."""


class Signature(FrozenModel):
    """The one tensor that a file takes and the one it gives, without their batch axis, and what they mean."""

    input_name: str
    input_type: InputType
    input_dims: Dims
    output_name: str
    output_dims: Dims
    batch: BatchSize | None = None
    """The only batch size that the file takes; None: any."""
    labels: Labels = ()
    output_kind: OutputKind = "logits"
    """What the output's numbers are."""
    resize: Resize | None = None
    """How an RGB image is brought to H x W pixels; None: the input is no image."""
    mean: Channels | None = None
    std: Channels | None = None
    interpolation: Interpolation = "bilinear"
    """The filter that `resize` takes."""
    crop: Crop = "center"
    """Whether `resize` is of the shorter side or, with `squash`, of both."""
    layout: Layout = "nchw"
    """Of `input_dims`, where the input is an image."""
    channels: ChannelOrder = "rgb"
    """Of the input; `mean` and `std` are in the order R, G, B whatever it is."""
    pixel_max: PixelMax = 1
    """What white is before `mean` and `std`, where the input is a float image."""

    @pydantic.field_validator("input_name", "output_name")
    @classmethod
    def _can_be_written_elsewhere(cls, name: str) -> str:
        """A file and its card may come from elsewhere, and these go into Triton's configuration and requests."""
        if not is_tensor_name(name):
            raise ValueError(f"'{one_line(name)[:80]}': {TENSOR_RULE}")
        return name

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_older_cards(cls, fields: Any) -> Any:
        """Older cards only tell whether a softmax is in the file."""
        if not isinstance(fields, dict) or "is_probabilities" not in fields:
            return fields
        others = {name: value for name, value in fields.items() if name != "is_probabilities"}
        return {"output_kind": "probabilities" if fields["is_probabilities"] else "logits"} | others

    @pydantic.field_validator("std")
    @classmethod
    def _divides(cls, std: Channels | None) -> Channels | None:
        return std and require_divisors(std)

    @pydantic.model_validator(mode="after")
    def _is_an_image_where_it_says_so(self) -> Signature:
        if self.layout == "nhwc" and (len(self.input_dims) != 3 or self.input_dims[2] != 3):
            raise ValueError(f"input_dims={list(self.input_dims)}: layout nhwc is [H, W, 3]")
        return self

    @pydantic.model_validator(mode="after")
    def _fits_memory(self) -> Signature:
        require_values(self, max(self.batch or 1, 1))
        return self

    @property
    def num_outputs(self) -> int:
        """Values per row of the output."""
        return math.prod(self.output_dims)

    @property
    def pixel_dims(self) -> tuple[int, ...]:
        """What `as_input` takes: [3, H, W] for an image, whatever the file's layout; else as `input_dims`."""
        if self.layout == "nchw":
            return self.input_dims
        height, width, channels = self.input_dims
        return channels, height, width

    @property
    def takes_pixels(self) -> bool:
        """Whether the input is what images are prepared to: UINT8 [3, H, W] in the order R, G, B."""
        return self.input_type == "uint8" and self.layout == "nchw" and self.channels == "rgb"

    def with_pixel_input(self) -> Signature:
        """Return what the same file takes behind nodes that prepare pixels; itself where it takes them, or no image."""
        if self.resize is None or self.takes_pixels:
            return self
        taken = (self.input_name, self.output_name)
        return self.model_copy(
            update={
                "input_name": next(name for name in _PIXEL_INPUTS if name not in taken),
                "input_type": "uint8",
                "input_dims": self.pixel_dims,
                "layout": "nchw",
                "channels": "rgb",
            }
        )

    def take(self, image: Image.Image, name: object) -> npt.NDArray[np.uint8]:
        """Return the pixels [3, H, W] of an RGB image, as the file's images are prepared.

        Raises:
            UsageError: it is too long and thin; the message begins with its name.
        """
        from resx.data.image_geometry import pixels

        _, height, width = self.pixel_dims
        resize = self.resize or min(height, width)
        return pixels(
            image,
            height=height,
            width=width,
            resize=resize,
            interpolation=self.interpolation,
            crop=self.crop,
            name=name,
        )

    def as_input(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Return the file's input [N, ...] for bytes [N, *pixel_dims]: pixels, or noise where it takes no images."""
        if self.input_type == "uint8":
            return order_channels(pixels, self.layout, self.channels)
        if self.mean is None or self.std is None:
            return (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(64)
        prepared = as_float(pixels, self.mean, self.std, pixel_max=self.pixel_max)
        return order_channels(prepared, self.layout, self.channels)


def require_values(signature: Signature, num_rows: int) -> None:
    """Check that so many rows of a file's input, and of its output, can be made in memory.

    Raises:
        UsageError: they are too many.
    """
    for what, dims in (("inputs", signature.input_dims), ("outputs", signature.output_dims)):
        if num_rows * math.prod(dims) > MAX_VALUES:
            raise UsageError(
                f"{num_rows} {what} of {list(dims)}: {num_rows * math.prod(dims):.3g} values, where {MAX_VALUES:.3g} "
                "are the most; give a smaller batch"
            )


def signature_of(spec: ModelSpec, input_type: InputType) -> Signature:
    """Return what the file of a network of ours takes and gives."""
    return Signature(
        input_name="image",
        input_type=input_type,
        input_dims=(3, spec.image_size, spec.image_size),
        output_name="logits",
        output_dims=(spec.classes,),
        labels=spec.labels,
        resize=spec.resize,
        mean=spec.mean,
        std=spec.std,
        interpolation=spec.interpolation,
        crop=spec.crop,
    )


class Normalization(FrozenModel):
    """Origin of the mean and standard deviation that a third party's float images are normalized with."""

    mean_from: Literal["option", "file", "ImageNet", "none"]
    """--mean, the file's metadata, or nothing: then ImageNet's are assumed, or none with --pixel-max 255."""
    std_from: Literal["option", "file", "ImageNet", "none"]
