"""Data sets by name, split once and for all; their images are UINT8 [N, 3, H, W].

    digits          built in: scikit-learn ships 1,797 real handwritten digits of 8x8 pixels (UCI "Optical
                    Recognition of Handwritten Digits", test part), here enlarged to 32x32
    cifar10:DIR     the python archive, unpacked or not (resx.training.cifar)
    cifar100:DIR    the same, with the 100 fine classes
    folder:DIR      a folder of images per class (resx.training.folder)

Digits and CIFAR are whole in memory (6 and 184 MB); a folder's images are decoded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.errors import MissingCapability, UsageError, nearest
from resx.fingerprint import Fingerprint, fingerprint_of_content
from resx.listing import one_line, skipped_words
from resx.zoo.spec import Channels, ImageFormat

BadImages: TypeAlias = Literal["refuse", "skip", "unchecked"]
"""What becomes of files that cannot be decoded; `unchecked` finds out when one is asked for."""

Checksum: TypeAlias = Literal["published", "gzip", "none"]
"""What says that an archive is not damaged."""

_CHECKSUMS: dict[Checksum, str] = {
    "published": "Checksum: the published MD5 of the official archive",
    "gzip": "Checksum: gzip's own, as this is not the official archive",
    "none": "warning: no checksum: these are not the official files, so damage to their pixels would go unseen; "
    "pack the folder as a .tar.gz",
}

KINDS = ("digits", "cifar10", "cifar100", "folder")


class Images(Protocol):
    """Images that are had by indexing with a slice or an array of indices: UINT8 [N, 3, H, W].

    A numpy array is one; so is what reads files only when it is indexed.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images and their classes INT64 [N]."""

    images: Images
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
    skipped: tuple[str, ...] = ()
    """Files that cannot be decoded and were left out."""
    hidden: int = 0
    """Hidden files and folders that were skipped."""
    others: Mapping[str, int] = field(default_factory=dict)
    """The number of files that were skipped as their names are no image's, by suffix."""
    notes: tuple[str, ...] = ()
    """What was made of a folder that is not obvious, a sentence each."""
    copies: tuple[str, ...] = ()
    """Files that are not trained on, as they are held out too, byte for byte."""
    conflicting: tuple[str, ...] = ()
    """Files of which a copy has another class."""
    checksum: Checksum | None = None
    """None for data that are no archive."""
    num_in_both: int = 0
    """Held-out images that are trained on too, pixel for pixel: an archive's parts stay as they are."""
    fingerprint: Fingerprint | None = None
    """Of the files, or of the content if all of it is in memory; `--resume` compares it."""

    @property
    def not_held_out(self) -> tuple[str, ...]:
        """The classes of which no image is held out: accuracy says nothing of them."""
        held_out = set(self.held_out.targets.tolist())
        return tuple(label for number, label in enumerate(self.labels) if number not in held_out)

    @property
    def remarks(self) -> list[str]:
        """What was left out and what looks wrong, a line each."""
        lines = list(self.notes)
        if skipped := skipped_words(self.others, self.hidden):
            lines.append(f"Skipped {skipped}")
        if self.skipped:
            lines.append(f"Skipped {_count(self.skipped, 'image')} that cannot be read: {_few(self.skipped)}")
        if self.copies:
            lines.append(
                f"Left {_count(self.copies, 'image')} out of training, of which a copy is held out: {_few(self.copies)}"
            )
        if self.conflicting:
            lines.append(
                f"warning: {_count(self.conflicting, 'image')} with the same bytes as one of another class: "
                f"{_few(self.conflicting)}"
            )
        if self.num_in_both:
            lines.append(f"warning: {self.num_in_both:,} held-out images are trained on too, pixel for pixel")
        if missing := self.not_held_out:
            lines.append(
                f"warning: no image is held out of {_count(missing, 'class', 'classes')} of {len(self.labels)} "
                f"({_few(missing)}): accuracy says nothing of them; hold some out (val/, or 5 images of each class)"
            )
        if self.checksum:
            lines.append(_CHECKSUMS[self.checksum])
        return lines


def load_data(name: str, *, image_size: int | None = None, bad_images: BadImages = "refuse") -> DataSet:
    """Load a data set by name.

    Args:
        name: `digits`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`.
        image_size: pixels each way; None takes the data set's own (32 for digits and CIFAR, 224 for a folder).
        bad_images: for a folder.

    Raises:
        UsageError: there is no data set of that name, its files cannot be used, or not at that size.
    """
    from resx.training.cifar import load_cifar
    from resx.training.folder import load_folder

    kind, colon, place = name.partition(":")
    if kind not in KINDS:
        raise UsageError(f"data {name!r}{nearest(kind, KINDS)}: give digits, cifar10:DIR, cifar100:DIR or folder:DIR")
    if image_size is not None and image_size < 8:
        raise UsageError(f"image_size={image_size}: give 8 pixels or more")
    if kind == "digits":
        if colon:
            raise UsageError(f"data {name!r}: the digits are built in; give `digits` alone")
        return digits(32 if image_size is None else image_size)
    if not place:
        raise UsageError(f"data {name!r}: where is it? give {kind}:DIR")
    if kind == "folder":
        return load_folder(Path(place), image_size=224 if image_size is None else image_size, bad_images=bad_images)
    if image_size not in (None, 32):
        raise UsageError(f"image_size={image_size}: CIFAR's images have 32 pixels; leave it out")
    images = load_cifar(Path(place), fine=kind == "cifar100")
    arrays = (images.train.images[:], images.train.targets, images.held_out.images[:], images.held_out.targets)
    return replace(images, fingerprint=fingerprint_of_content(kind, (array.tobytes() for array in arrays)))


def digits(size: int = 32) -> DataSet:
    """The handwritten digits at `size` x `size` pixels: 1,442 to train on, 355 held out.

    Every fifth image of each class, in the file's order, is held out, so the split is stratified and
    never changes.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingCapability("data `digits`: scikit-learn is not installed; pip install 'resx[cpu]'") from None

    pixels, classes = load_digits(return_X_y=True)
    targets = classes.astype(np.int64)
    grey = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    images = np.stack([_enlarged(image, size) for image in grey])[:, None].repeat(3, axis=1)
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


def _enlarged(grey: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))


def _count(files: Sequence[str], what: str, several: str = "") -> str:
    return f"{len(files)} {what if len(files) == 1 else several or what + 's'}"


def _few(files: Sequence[str]) -> str:
    return ", ".join(map(one_line, files[:3])) + (", ..." if len(files) > 3 else "")
