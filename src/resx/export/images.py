"""An image brought to a network's size: the one geometry for calibration, queries and servers' clients.

It is torchvision's for classification: bring the shorter side to `resize` pixels (bilinear, antialiased),
cut the centre.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from resx.errors import UsageError

MAX_RESIZED_PIXELS = 64_000_000


def load_image(path: Path) -> Image.Image:
    """Decode a file to RGB; grey images get three equal channels, transparency is dropped.

    Raises:
        UsageError: the file is missing, or is no image that Pillow knows.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: not an image that can be decoded; give a PNG, JPEG or WebP file") from error


def pixels(image: Image.Image, *, height: int, width: int, resize: int) -> npt.NDArray[np.uint8]:
    """Return the centre of an RGB image as UINT8 [3, height, width], its shorter side brought to `resize` first.

    Raises:
        UsageError: it is so long and thin that resizing it would take gigabytes.
    """
    scale = resize / min(image.size)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size[0] * size[1] > MAX_RESIZED_PIXELS:
        raise UsageError(f"image of {image.width} x {image.height} pixels: too long and thin; crop it")
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))
