"""Bring an image to a network's size, pixel for pixel as torchvision's `ImageClassification` transforms and timm's do.

    center       shorter side = resize, longer side = int(resize * long / short)    transforms/functional.py
    squash       both sides = resize, whatever the image's shape                    timm's transforms_factory.py
    top, left    = round((h - height) / 2), round((w - width) / 2)                  both; halves go to the even number

Pillow filters with antialiasing, which torchvision's presets ask for too. Training, calibration, queries and scoring
use this function; the image endpoint's model (`resx/serving/embedded/backends/preprocess/model.py`) holds a copy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.errors import UsageError
from resx.files.reading import Budget, read_limits
from resx.zoo.spec import Crop, Interpolation

_RESIZED = Budget(lambda: read_limits().pixels)
"""Pixels that all threads together may be resizing to."""
_FILTERS: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def pixels(
    image: Image.Image,
    *,
    height: int,
    width: int,
    resize: int,
    interpolation: Interpolation = "bilinear",
    crop: Crop = "center",
    name: object = "",
) -> npt.NDArray[np.uint8]:
    """Return the center of an RGB image as UINT8 [3, height, width], its shorter side brought to `resize` first.

    With `squash`, both sides are, so that nothing is cut off but what `resize` has more than the crop.

    Raises:
        UsageError: as `resized_size`; the message begins with the file's name, where one is given.
    """
    size = resized_size(image, height=height, width=width, resize=resize, crop=crop, name=name)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    with _RESIZED.hold(size[0] * size[1]):
        resized = image.resize(size, _FILTERS[interpolation]).crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def resized_size(
    image: Image.Image, *, height: int, width: int, resize: int, crop: Crop = "center", name: object = ""
) -> tuple[int, int]:
    """Return the width and height to which `pixels` resizes before it crops.

    Where torchvision's rule leaves a side shorter than the crop, which no preset does (but a network for images
    that are not square), the side is stretched to the crop.

    Raises:
        UsageError: the image is so long and thin that resizing it would take gigabytes.
    """
    short, long = min(image.size), max(image.size)
    if crop == "squash":
        sides = [resize * side // min(width, height) for side in (width, height)]
    else:
        sides = [resize if side == short else int(resize * long / short) for side in image.size]
    size = (max(width, sides[0]), max(height, sides[1]))
    limit = read_limits().pixels
    if size[0] * size[1] > limit:
        prefix = f"{name}: " if str(name) else ""
        raise UsageError(
            f"{prefix}image of {image.width} x {image.height} pixels: too long and thin: it would be resized to "
            f"{size[0]} x {size[1]}, the limit is {limit:,}; crop it"
        )
    return size
