"""A folder of images per class, as torchvision's ImageFolder reads it.

    DIR/train/CLASS/*.jpg  and  DIR/val/CLASS/*.jpg       or
    DIR/CLASS/*.jpg                                        every fifth image of each class is held out

Classes are the folders' names in alphabetical order; images are found at any depth below them and ordered
by path, so the split depends on nothing but the names. Hidden files and folders are skipped (resx.listing), and an
image that is held out too, byte for byte, is not trained on (resx.training.copies). An image's shorter side is
brought to 8/7 of the network's size (256 for 224) and its centre cropped; `resx.training.images` decodes it. Nothing is
kept in memory: a batch's files are decoded when the batch is asked for, by several threads (Pillow lets go of the
interpreter while it decodes).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resx.errors import UsageError
from resx.fingerprint import fingerprint_of_files
from resx.listing import LABEL_RULE, is_label, list_folders, list_images, one_line
from resx.training.copies import find_copies
from resx.training.data import BadImages, DataSet, Split, every_fifth_of_each_class
from resx.training.geometry import pixels, resized_size
from resx.training.images import open_image, read_image_file
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat

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
            classes, a class's name cannot be a label, or images cannot be decoded and `bad_images` is `refuse` (they
            are counted and named).
    """
    image = ImageFormat(image_size=image_size, resize=round(image_size * 8 / 7), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give one with a folder of images per class")
    divided = (root / "train").is_dir() and (root / "val").is_dir()
    found = [_files(root / part) for part in ("train", "val")] if divided else [_files(root)]
    parts = [entries for entries, _ in found]
    classes = _common_classes(root, parts)
    bad = {} if bad_images == "unchecked" else _undecodable((path for part in parts for path, _ in part), image)
    if bad and bad_images == "refuse":
        names = ", ".join(str(path.relative_to(root)) for path in list(bad)[:3]) + (", ..." if len(bad) > 3 else "")
        total = sum(len(part) for part in parts)
        raise UsageError(
            f"{root}: {len(bad)} of {total} images cannot be read ({names}); the first: "
            f"{next(iter(bad.values()))}; mend them, or give --skip-bad"
        )
    splits = [_split([entry for entry in part if entry[0] not in bad], classes, image) for part in parts]
    train, held_out = splits if divided else _divided(splits[0])
    if not len(train) or not len(held_out):
        raise UsageError(f"{root}: too few images to train on some and hold out others; give 5 or more per class")
    copies = find_copies(_labelled(train), _labelled(held_out))
    kept = _without(train, copies.held_out_too)
    if gone := sorted(set(train.targets.tolist()) - set(kept.targets.tolist())):
        raise UsageError(
            f"{root}: every training image of class {classes[gone[0]]} is held out too, byte for byte; "
            "give other images to train on"
        )
    return DataSet(
        name="folder", labels=classes, image=image, train=kept, held_out=held_out,
        skipped=tuple(str(path) for path in bad), hidden=sum(hidden for _, hidden in found),
        copies=tuple(map(str, copies.held_out_too)), conflicting=tuple(map(str, copies.conflicting)),
        fingerprint=fingerprint_of_files(root, (path for part in parts for path, _ in part)),
    )  # fmt: skip


def decoded(path: Path, image: ImageFormat) -> npt.NDArray[np.uint8]:
    """Decode a file to UINT8 [3, H, W]: shorter side to `resize`, centre crop of `image_size`, RGB.

    Raises:
        UsageError: it is no image that `open_image` reads, or too long and thin.
    """
    size = image.image_size
    with open_image(read_image_file(path), path) as found:
        return pixels(found, height=size, width=size, resize=image.resize, interpolation=image.interpolation, name=path)


def _files(root: Path) -> tuple[list[tuple[Path, str]], int]:
    """Return (path, class) of every image below `root`, by class and then by path, and how many hidden were skipped."""
    found: list[tuple[Path, str]] = []
    folders, hidden = list_folders(root)
    for folder in folders:
        paths, hidden_inside = list_images(folder)
        hidden += hidden_inside
        if paths and not is_label(folder.name):
            raise UsageError(f"{root}: class '{one_line(folder.name)}': {LABEL_RULE}; rename the folder")
        found += [(path, folder.name) for path in paths]
    return found, hidden


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


def _undecodable(paths: Iterable[Path], image: ImageFormat) -> dict[Path, str]:
    """Decode every file once, and return those that fail with the reason; none is resized."""

    def reason(path: Path) -> str:
        try:
            size = image.image_size
            with open_image(read_image_file(path), path) as found:
                resized_size(found, height=size, width=size, resize=image.resize)
        except UsageError as error:
            return str(error).removeprefix(f"{path}: ")
        return ""

    listed = list(paths)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        return {path: why for path, why in zip(listed, threads.map(reason, listed), strict=True) if why}


def _split(entries: list[tuple[Path, str]], classes: tuple[str, ...], image: ImageFormat) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    return Split(
        images=FolderImages(paths=tuple(path for path, _ in entries), image=image),
        targets=np.array([number[name] for _, name in entries], dtype=np.int64),
    )


def _divided(split: Split) -> tuple[Split, Split]:
    held_out = every_fifth_of_each_class(split.targets)
    return _chosen(split, ~held_out), _chosen(split, held_out)


def _without(split: Split, paths: Collection[Path]) -> Split:
    gone = set(paths)
    return _chosen(split, np.array([path not in gone for path, _ in _labelled(split)], dtype=np.bool_))


def _chosen(split: Split, mask: npt.NDArray[np.bool_]) -> Split:
    assert isinstance(split.images, FolderImages)
    paths = tuple(split.images.paths[index] for index in np.flatnonzero(mask))
    return Split(images=FolderImages(paths=paths, image=split.images.image), targets=split.targets[mask])


def _labelled(split: Split) -> list[tuple[Path, int]]:
    assert isinstance(split.images, FolderImages)
    return list(zip(split.images.paths, split.targets.tolist(), strict=True))
