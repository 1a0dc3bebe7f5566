"""Data sets: whole in memory as UINT8 [N, 3, H, W], split once and for all.

`digits` is built in: scikit-learn ships 1,797 real handwritten digits of 8x8 pixels (UCI "Optical
Recognition of Handwritten Digits", test part), here enlarged to 32x32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.errors import MissingCapability, UsageError, nearest
from resx.zoo.spec import ImageFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images UINT8 [N, 3, H, W] and their classes INT64 [N]."""

    images: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A training part and a held-out part, with what a network needs to know of the images."""

    name: str
    labels: tuple[str, ...]
    image: ImageFormat
    train: Split
    held_out: Split


def load_data(name: str) -> DataSet:
    """Load a data set by name.

    Raises:
        UsageError: there is no data set of that name.
    """
    if name == "digits":
        return digits()
    raise UsageError(f"data {name!r}{nearest(name, ['digits'])}: the built-in data set is `digits`")


def digits(size: int = 32) -> DataSet:
    """The handwritten digits at `size` x `size` pixels: 1,442 to train on, 355 held out.

    Every fifth image of each class, in the file's order, is held out, so the split is stratified and
    never changes.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingCapability("data `digits`: scikit-learn is not installed; pip install 'resx[cpu]'") from None

    pixels, targets = load_digits(return_X_y=True)
    grey = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    images = np.stack([_enlarged(image, size) for image in grey])[:, None].repeat(3, axis=1)
    targets = targets.astype(np.int64)
    rank_in_class = np.zeros(len(targets), dtype=np.int64)
    for digit in range(10):
        rank_in_class[targets == digit] = np.arange((targets == digit).sum())
    held_out = rank_in_class % 5 == 4
    train = Split(images=images[~held_out], targets=targets[~held_out])
    mean, std = float(train.images.mean() / 255), float(train.images.std() / 255)
    return DataSet(
        name="digits",
        labels=tuple(f"digit-{digit}" for digit in range(10)),
        image=ImageFormat(image_size=size, resize=size, mean=(mean,) * 3, std=(std,) * 3),
        train=train,
        held_out=Split(images=images[held_out], targets=targets[held_out]),
    )


def shifted(images_NCHW: npt.NDArray[np.uint8], max_px: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return the images, each moved by its own random offset of up to `max_px` pixels each way."""
    if max_px == 0:
        return images_NCHW
    height, width = images_NCHW.shape[2:]
    padded = np.pad(images_NCHW, ((0, 0), (0, 0), (max_px, max_px), (max_px, max_px)))
    offsets = random.integers(0, 2 * max_px + 1, size=(len(images_NCHW), 2))
    return np.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)])


def _enlarged(grey: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))
