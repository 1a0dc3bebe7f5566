"""Images to try a network on: crops of real photographs. Files are decoded by `resx.data.image_decoding`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.data.image_decoding import image_of as image_of
from resx.data.image_decoding import load_image as load_image
from resx.data.image_decoding import open_image as open_image
from resx.data.image_geometry import pixels as pixels

# Few enough for a laptop at 224 pixels.
_NUM_PHOTOGRAPHS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class RealImages:
    """Images that were photographed, not made: noise alone would not show a wrong colour order."""

    images: npt.NDArray[np.uint8]
    """[N, 3, H, W] at the network's size; none for a network that takes no images."""
    origin: str
    """For the card."""
    classes: npt.NDArray[np.int64] | None = None
    """[N]; None where they are not known."""


def photographs(height: int, width: int, *, seed: int) -> RealImages:
    """Return random crops of photographs at a network's size."""
    crops = photograph_crops(_NUM_PHOTOGRAPHS, max(height, width), seed=seed)
    return RealImages(images=crops[:, :, :height, :width], origin="crops of scikit-learn's sample photographs")


def photograph_crops(num_images: int, size: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """Return random squares cut out of scikit-learn's two sample photographs, UINT8 [N, 3, size, size]."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(seed)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    crops = []
    for index in range(num_images):
        photograph = photographs[index % len(photographs)]
        side = int(random.integers(min(photograph.size) // 3, min(photograph.size)))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        crops.append(np.asarray(crop).transpose(2, 0, 1))
    return np.stack(crops)
