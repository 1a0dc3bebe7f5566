"""scikit-learn's 1,797 handwritten digits of 8x8 pixels (UCI, test part), enlarged and split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.data.dataset import DataSet, Split
from resx.errors import MissingCapability
from resx.files.fingerprint import fingerprint_of_content
from resx.zoo.spec import Channels, ImageFormat


def digits(size: int = 32) -> DataSet:
    """The handwritten digits at `size` x `size` pixels: 1,442 to train on, 355 held out.

    Every fifth image of each class, in the file's order, is held out, so the split is stratified and
    never changes. The 13 writers are in both parts: accuracy says nothing of a writer who was never seen.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingCapability("data `digits`: scikit-learn is not installed; pip install 'resx[cpu]'") from None

    pixels, classes = load_digits(return_X_y=True)
    targets = classes.astype(np.int64)
    grey = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    images = np.stack([resize_grey(image, size) for image in grey])[:, None].repeat(3, axis=1)
    held_out = every_fifth_of_each_class(targets)
    mean, std = channel_statistics(images[~held_out])
    return DataSet(
        name="digits",
        labels=tuple(f"digit-{digit}" for digit in range(10)),
        image=ImageFormat(image_size=size, resize=size, mean=mean, std=std),
        train=Split(images=images[~held_out], targets=targets[~held_out]),
        held_out=Split(images=images[held_out], targets=targets[held_out]),
        fingerprint=fingerprint_of_content("digits", (pixels.tobytes(), targets.tobytes())),
    )


def every_fifth_of_each_class(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return a mask [N] of the images to hold out: the 5th, 10th, ... of each class in the given order."""
    rank_in_class = np.zeros(len(targets), dtype=np.int64)
    for number in np.unique(targets):
        rank_in_class[targets == number] = np.arange((targets == number).sum())
    return rank_in_class % 5 == 4


def channel_statistics(images_NCHW: npt.NDArray[np.uint8]) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of each channel, for pixels in [0, 1]; no deviation is below 1/255."""
    values = np.arange(256) / 255
    counts = [np.bincount(images_NCHW[:, channel].reshape(-1), minlength=256) for channel in range(3)]
    means = [float((values * count).sum() / count.sum()) for count in counts]
    variances = [
        float(((values - mean) ** 2 * count).sum() / count.sum()) for count, mean in zip(counts, means, strict=True)
    ]
    red, green, blue = (max(variance**0.5, 1 / 255) for variance in variances)
    return (means[0], means[1], means[2]), (red, green, blue)


def resize_grey(grey: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return an image UINT8 [H, W] at `size` x `size` pixels, bilinear."""
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))
