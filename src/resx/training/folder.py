"""A folder of images per class, as torchvision's ImageFolder reads it.

    DIR/train/CLASS/*.jpg  and  DIR/val/CLASS/*.jpg       or
    DIR/CLASS/*.jpg                                        every fifth image of each class is held out

Classes are the folders' names in alphabetical order; images are found at any depth below them and ordered
by path, so the split depends on nothing but the names. An image's shorter side is brought to 8/7 of the
network's size (256 for 224) and its centre cropped. Nothing is kept in memory: a batch's files are decoded
when the batch is asked for, by several threads (Pillow lets go of the interpreter while it decodes).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.errors import UsageError
from resx.files import PICTURE_FORMATS
from resx.training.data import BadImages, DataSet, Split, every_fifth_of_each_class
from resx.training.geometry import pixels
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})
_NUM_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderImages:
    """Image files, decoded when indexed: UINT8 [N, 3, H, W]."""

    paths: tuple[Path, ...]
    image: ImageFormat

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        paths = self.paths[chosen] if isinstance(chosen, slice) else [self.paths[index] for index in chosen]
        size = self.image.image_size
        out = np.empty((len(paths), 3, size, size), dtype=np.uint8)

        def put(index: int) -> None:
            out[index] = decoded(paths[index], self.image)

        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            list(threads.map(put, range(len(paths))))
        return out


def load_folder(root: Path, *, image_size: int, bad_images: BadImages) -> DataSet:
    """Find the classes and images of a folder; none is kept in memory.

    Raises:
        UsageError: the folder is missing or empty, has fewer than two classes, its parts have different
            classes, or images cannot be decoded and `bad_images` is `refuse` (they are counted and named).
    """
    image = ImageFormat(image_size=image_size, resize=round(image_size * 8 / 7), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give one with a folder of images per class")
    divided = (root / "train").is_dir() and (root / "val").is_dir()
    parts = [_files(root / part) for part in ("train", "val")] if divided else [_files(root)]
    classes = _common_classes(root, parts)
    bad = () if bad_images == "unchecked" else _undecodable(path for part in parts for path, _ in part)
    if bad and bad_images == "refuse":
        names = ", ".join(str(path.relative_to(root)) for path in bad[:3]) + (", ..." if len(bad) > 3 else "")
        total = sum(len(part) for part in parts)
        raise UsageError(
            f"{root}: {len(bad)} of {total} images cannot be read ({names}); mend them, or give --skip-bad"
        )
    splits = [_split([entry for entry in part if entry[0] not in set(bad)], classes, image) for part in parts]
    train, held_out = splits if divided else _divided(splits[0])
    if not len(train) or not len(held_out):
        raise UsageError(f"{root}: too few images to train on some and hold out others; give 5 or more per class")
    return DataSet(
        name="folder", labels=classes, image=image, train=train, held_out=held_out,
        skipped=tuple(str(path) for path in bad),
    )  # fmt: skip


def decoded(path: Path, image: ImageFormat) -> npt.NDArray[np.uint8]:
    """Decode a file to UINT8 [3, H, W]: shorter side to `resize`, centre crop of `image_size`, RGB.

    Raises:
        UsageError: the file is no image, is truncated, or is so large that it looks like an attack.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's warnings are of odd metadata; what cannot be decoded is an error all the same.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=PICTURE_FORMATS) as file:
                whole = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: cannot be read as an image ({error}); mend it, or give --skip-bad") from error
    size = image.image_size
    return pixels(whole, height=size, width=size, resize=image.resize, interpolation=image.interpolation, name=path)


def _files(root: Path) -> list[tuple[Path, str]]:
    """Return (path, class) of every image below `root`, by class and then by path."""
    found: list[tuple[Path, str]] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        found += [(path, folder.name) for path in paths]
    return found


def _common_classes(root: Path, parts: list[list[tuple[Path, str]]]) -> tuple[str, ...]:
    classes = tuple(sorted({name for _, name in parts[0]}))
    if not classes:
        raise UsageError(f"{root}: no images in it; give a folder with a folder of images per class")
    if len(classes) == 1:
        raise UsageError(f"{root}: one class only ({classes[0]}); a classifier needs two or more")
    for part in parts[1:]:
        if other := {name for _, name in part} ^ set(classes):
            raise UsageError(
                f"{root}: {', '.join(sorted(other)[:3])}: not in both train/ and val/; give both the same classes"
            )
    return classes


def _undecodable(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Decode every file once, and return those that fail."""
    smallest = ImageFormat(image_size=8, resize=8, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def fails(path: Path) -> bool:
        try:
            decoded(path, smallest)
        except UsageError:
            return True
        return False

    listed = list(paths)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        return tuple(path for path, failed in zip(listed, threads.map(fails, listed), strict=True) if failed)


def _split(entries: list[tuple[Path, str]], classes: tuple[str, ...], image: ImageFormat) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    return Split(
        images=FolderImages(paths=tuple(path for path, _ in entries), image=image),
        targets=np.array([number[name] for _, name in entries], dtype=np.int64),
    )


def _divided(split: Split) -> tuple[Split, Split]:
    assert isinstance(split.images, FolderImages)
    images, held_out = split.images, every_fifth_of_each_class(split.targets)

    def part(mask: npt.NDArray[np.bool_]) -> Split:
        paths = tuple(images.paths[index] for index in np.flatnonzero(mask))
        return Split(images=FolderImages(paths=paths, image=images.image), targets=split.targets[mask])

    return part(~held_out), part(held_out)
