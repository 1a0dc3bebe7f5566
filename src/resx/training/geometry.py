"""Bring an image to a network's size, pixel for pixel as torchvision's `ImageClassification` transforms do.

    shorter side = resize, longer side = int(resize * long / short)         transforms/functional.py
    top, left    = round((h - height) / 2), round((w - width) / 2)          the same; halves go to the even number

Pillow filters with antialiasing, which torchvision's presets ask for too. Training, calibration, queries and scoring
use this function; the image endpoint's model (`resx/serving/backends/preprocess/model.py`) holds a copy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.errors import UsageError
from resx.zoo.spec import Interpolation

MAX_RESIZED_PIXELS = 64_000_000
_FILTERS: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
}  # fmt: skip


def pixels(
    image: Image.Image, *, height: int, width: int, resize: int, interpolation: Interpolation = "bilinear"
) -> npt.NDArray[np.uint8]:
    """Return the center of an RGB image as UINT8 [3, height, width], its shorter side brought to `resize` first.

    Where that leaves a side shorter than the crop, which no preset does (but a network for images that are not
    square), the side is stretched to the crop.

    Raises:
        UsageError: it is so long and thin that resizing it would take gigabytes.
    """
    short, long = min(image.size), max(image.size)
    size = [resize if side == short else int(resize * long / short) for side in image.size]
    size = [max(size[0], width), max(size[1], height)]
    if size[0] * size[1] > MAX_RESIZED_PIXELS:
        raise UsageError(f"image of {image.width} x {image.height} pixels: too long and thin; crop it")
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    resized = image.resize((size[0], size[1]), _FILTERS[interpolation]).crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))
