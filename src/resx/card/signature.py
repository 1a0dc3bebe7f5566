"""What a model takes and gives: names, shapes, types, and what its pixels must be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from resx.card.kinds import MAX_VALUES, BatchSize, Dims, InputType, OutputKind
from resx.errors import UsageError
from resx.names import TENSOR_RULE, is_tensor_name
from resx.text import one_line
from resx.values import FrozenModel
from resx.zoo.spec import Channels, Crop, Interpolation, Labels, ModelSpec, Resize, require_divisors

if TYPE_CHECKING:
    from PIL import Image


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
    """How an RGB image is brought to [3, H, W]; None: the input is no image."""
    mean: Channels | None = None
    std: Channels | None = None
    interpolation: Interpolation = "bilinear"
    """The filter that `resize` takes."""
    crop: Crop = "center"
    """Whether `resize` is of the shorter side or, with `squash`, of both."""

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
    def _fits_memory(self) -> Signature:
        require_values(self, max(self.batch or 1, 1))
        return self

    @property
    def num_outputs(self) -> int:
        """Values per row of the output."""
        return math.prod(self.output_dims)

    def take(self, image: Image.Image, name: object) -> npt.NDArray[np.uint8]:
        """Return the pixels [3, H, W] of an RGB image, as the file's images are prepared.

        Raises:
            UsageError: it is too long and thin; the message begins with its name.
        """
        from resx.data.image_geometry import pixels

        _, height, width = self.input_dims
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
        """Return the file's input [N, ...] for bytes of the same shape: pixels, or noise where it takes no images."""
        if self.input_type == "uint8":
            return pixels
        if self.mean is None or self.std is None:
            return (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(64)
        return normalised_pixels(pixels, self.mean, self.std)


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

    mean_from: Literal["option", "file", "ImageNet"]
    """--mean, the file's metadata, or nothing: then ImageNet's are assumed."""
    std_from: Literal["option", "file", "ImageNet"]


def normalised_pixels(
    images_NCHW: npt.NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    """Return (image / 255 - mean) / std as FP32, what a model exported with `--input float32` takes."""
    x_NCHW = images_NCHW.astype(np.float32) / np.float32(255)
    channels = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
    return (x_NCHW - next(channels)) / next(channels)
