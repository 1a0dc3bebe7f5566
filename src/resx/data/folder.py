"""A folder of images per class, with the classes and images that torchvision's ImageFolder finds.

    DIR/train/CLASS/*.jpg  and  DIR/val/CLASS/*.jpg       or
    DIR/CLASS/*.jpg                                        every fifth image of each class is held out

`resx.data.folder_layout` says which names are parts. Classes are the folders' names in alphabetical order, in Unicode's
composed form (NFC): two folders whose names look the same are one class. Each class needs an image; images are found at
any depth below it and ordered by path, so the split depends on nothing but the names. Hidden files and folders and
files that are no images by their names are skipped and counted (resx.files.listing), and an image that is held out too,
byte for byte, is not trained on (resx.data.duplicate_images).
An image's shorter side is brought to 8/7 of the network's size (256 for 224) and its centre cropped;
`resx.data.image_decoding` decodes it. Nothing is kept in memory: a batch's files are decoded when the batch is asked
for, by several threads (Pillow lets go of the interpreter while it decodes).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resx.data.dataset import BadImages, DataSet, Split
from resx.data.digits import every_fifth_of_each_class
from resx.data.duplicate_images import Copies, find_copies
from resx.data.folder_layout import Layout, find_layout, require_undivided
from resx.data.image_decoding import open_image, read_image_file
from resx.data.image_geometry import pixels, resized_size
from resx.errors import UsageError
from resx.files.fingerprint import Fingerprint, fingerprint_of_files
from resx.files.listing import ImageListing, add_counts, list_folders, list_images
from resx.machine import usable_cores
from resx.names import LABEL_RULE, is_label
from resx.text import one_line
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat

_MOST_THREADS = 16


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
            out[index] = decode(paths[index], self.image)

        with ThreadPoolExecutor(min(_MOST_THREADS, usable_cores())) as threads:
            list(threads.map(put, range(len(paths))))
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class _FolderFiles:
    """The images of a data set's parts, with what was found beside them."""

    layout: Layout
    parts: list[list[tuple[Path, str]]]
    """(path, class) of every image that can be read."""
    classes: tuple[str, ...]
    image: ImageFormat
    bad: tuple[Path, ...]
    """Images that cannot be read."""
    listings: list[ImageListing]
    loose: list[Path]
    """Images in no class's folder."""
    fingerprint: Fingerprint

    def data_set(self, train: Split, held_out: Split, notes: tuple[str, ...], copies: Copies) -> DataSet:
        """Return the data set of two parts."""
        return DataSet(
            name="folder",
            labels=self.classes,
            image=self.image,
            train=train,
            held_out=held_out,
            skipped=tuple(map(str, self.bad)),
            hidden=sum(listing.hidden for listing in self.listings),
            others=add_counts(listing.others for listing in self.listings),
            notes=(*notes, *_loose(self.loose)),
            copies=tuple(map(str, copies.held_out_too)),
            conflicting=tuple(map(str, copies.conflicting)),
            fingerprint=self.fingerprint,
        )


def load_folder(root: Path, *, image_size: int, bad_images: BadImages) -> DataSet:
    """Find the classes and images of a folder; none is kept in memory.

    Raises:
        UsageError: the folder is missing or empty, has fewer than two classes or one without images, its parts have
            different classes or cannot be told from classes, a class's name cannot be a label, or images cannot be
            decoded and `bad_images` is `refuse` (they are counted and named) or a class has no others.
    """
    files = _find_files(root, image_size, bad_images)
    splits = [_split(part, files.classes, files.image) for part in files.parts]
    train, held_out = splits if len(splits) > 1 else _divide(splits[0])
    if not len(held_out):
        raise UsageError(f"{root}: too few images for a held-out part; use 5 or more per class")
    copies = find_copies(_label(train), _label(held_out))
    kept = _leave_out(train, copies.held_out_too)
    if gone := sorted(set(train.targets.tolist()) - set(kept.targets.tolist())):
        raise UsageError(
            f"{root}: every training image of class {files.classes[gone[0]]} is held out too, byte for byte "
            f"({len(copies.held_out_too)} of all {len(train)} training images are); use other training images"
        )
    return files.data_set(kept, held_out, files.layout.notes, copies)


def load_whole_folder(root: Path, *, image_size: int, bad_images: BadImages) -> DataSet:
    """Find the classes and images of a folder, of which nothing is to be trained on: all images are held out.

    Raises:
        UsageError: as `load_folder`, but that few images are enough.
    """
    files = _find_files(root, image_size, bad_images)
    every = _split([entry for part in files.parts for entry in part], files.classes, files.image)
    none = _choose(every, np.zeros(len(every), dtype=np.bool_))
    return files.data_set(none, every, (), find_copies((), _label(every)))


def _find_files(root: Path, image_size: int, bad_images: BadImages) -> _FolderFiles:
    image = ImageFormat(image_size=image_size, resize=round(image_size * 8 / 7), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; use one with a folder of images per class")
    folders, beside = list_folders(root)
    layout = find_layout(root, folders)
    found = [_find_images(place) for place in layout.parts]
    parts = [entries for entries, _ in found]
    listings = [listing for _, several in found for listing in several]
    loose = [path for _, several in found for path in several[-1].paths]
    if layout.parts != (root,):
        listings.append(beside)
        loose += beside.paths
    classes = _common_classes(layout.parts, parts)
    bad = {} if bad_images == "unchecked" else _undecodable((path for part in parts for path, _ in part), image)
    _require_readable(root, parts, bad, skip=bad_images == "skip")
    return _FolderFiles(
        layout=layout,
        parts=[[entry for entry in part if entry[0] not in bad] for part in parts],
        classes=classes,
        image=image,
        bad=tuple(bad),
        listings=listings,
        loose=loose,
        fingerprint=fingerprint_of_files(root, (path for part in parts for path, _ in part)),
    )


def decode(path: Path, image: ImageFormat) -> npt.NDArray[np.uint8]:
    """Decode a file to UINT8 [3, H, W]: resized, and cropped to `image_size` in the center, RGB.

    Raises:
        UsageError: it is no image that `open_image` reads, or too long and thin.
    """
    size = image.image_size
    with open_image(read_image_file(path), path) as found:
        return pixels(
            found,
            height=size,
            width=size,
            resize=image.resize,
            interpolation=image.interpolation,
            crop=image.crop,
            name=path,
        )


def _find_images(root: Path) -> tuple[list[tuple[Path, str]], list[ImageListing]]:
    """Return (path, class) of every image below `root`, by class and then by path, and what was listed for it.

    The last listing is of what lies beside the classes.
    """
    found: list[tuple[Path, str]] = []
    folders, beside = list_folders(root)
    if not folders:
        images = f" ({len(beside.paths)} images are directly in it)" if beside.paths else ""
        raise UsageError(f"{root}: no folder per class in it{images}; use one with a folder of images per class")
    listings = [list_images(folder) for folder in folders]
    for folder, listing in zip(folders, listings, strict=True):
        name = one_line(folder.name)
        if not listing.paths:
            skipped = f"; skipped {listing.skipped}" if listing.skipped else ""
            raise UsageError(f"{root}: class '{name}' has no image{skipped}; add some, or move the folder elsewhere")
        if not is_label(folder.name):
            raise UsageError(f"{root}: class '{name}': {LABEL_RULE}; rename the folder")
        require_undivided(root, folder, listing.paths)
        found += [(path, unicodedata.normalize("NFC", folder.name)) for path in listing.paths]
    return found, [*listings, beside]


def _common_classes(places: Sequence[Path], parts: list[list[tuple[Path, str]]]) -> tuple[str, ...]:
    classes = tuple(sorted({name for _, name in parts[0]}))
    for place, part in zip(places, parts, strict=True):
        there = {name for _, name in part}
        sides = ((places[0], set(classes) - there), (place, there - set(classes)))
        if words := [f"only {one_line(side.name)}/ has {_few_names(names)}" for side, names in sides if names]:
            raise UsageError(f"{place.parent}: {' and '.join(words)}; both need the same classes")
    if len(classes) == 1:
        raise UsageError(f"{places[0]}: only one class ({classes[0]}); a classifier needs two or more")
    return classes


def _few_names(names: Collection[str]) -> str:
    return ", ".join(map(one_line, sorted(names)[:3])) + (", ..." if len(names) > 3 else "")


def _require_readable(root: Path, parts: list[list[tuple[Path, str]]], bad: Mapping[Path, str], *, skip: bool) -> None:
    """Refuse images that cannot be decoded; with `skip`, only if a class of a part has no others."""
    if not bad:
        return
    if not skip:
        names = ", ".join(str(path.relative_to(root)) for path in list(bad)[:3]) + (", ..." if len(bad) > 3 else "")
        total = sum(len(part) for part in parts)
        raise UsageError(
            f"{root}: {len(bad)} of {total} images cannot be read ({names}); the first: {next(iter(bad.values()))}; "
            "fix them, or give --skip-bad"
        )
    for part in parts:
        left = {name for path, name in part if path not in bad}
        for path, name in part:
            if name not in left:
                raise UsageError(
                    f"{root}: class '{name}': none of its images can be read (the first, {path.relative_to(root)}: "
                    f"{bad[path]}); fix them, or move the class elsewhere"
                )


def _loose(paths: Sequence[Path]) -> list[str]:
    """Say which images lie in no class's folder."""
    if not paths:
        return []
    names = ", ".join(one_line(path.name) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    return [f"Skipped {len(paths)} image{'s' * (len(paths) != 1)} in no class's folder: {names}"]


def _undecodable(paths: Iterable[Path], image: ImageFormat) -> dict[Path, str]:
    """Decode every file once, and return those that fail with the reason; none is resized."""

    def reason(path: Path) -> str:
        try:
            size = image.image_size
            with open_image(read_image_file(path), path) as found:
                resized_size(found, height=size, width=size, resize=image.resize, crop=image.crop)
        except UsageError as error:
            return str(error).removeprefix(f"{path}: ")
        return ""

    listed = list(paths)
    with ThreadPoolExecutor(min(_MOST_THREADS, usable_cores())) as threads:
        return {path: why for path, why in zip(listed, threads.map(reason, listed), strict=True) if why}


def _split(entries: list[tuple[Path, str]], classes: tuple[str, ...], image: ImageFormat) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    return Split(
        images=FolderImages(paths=tuple(path for path, _ in entries), image=image),
        targets=np.array([number[name] for _, name in entries], dtype=np.int64),
    )


def _divide(split: Split) -> tuple[Split, Split]:
    held_out = every_fifth_of_each_class(split.targets)
    return _choose(split, ~held_out), _choose(split, held_out)


def _leave_out(split: Split, paths: Collection[Path]) -> Split:
    gone = set(paths)
    return _choose(split, np.array([path not in gone for path, _ in _label(split)], dtype=np.bool_))


def _choose(split: Split, mask: npt.NDArray[np.bool_]) -> Split:
    assert isinstance(split.images, FolderImages)
    paths = tuple(split.images.paths[index] for index in np.flatnonzero(mask))
    return Split(images=FolderImages(paths=paths, image=split.images.image), targets=split.targets[mask])


def _label(split: Split) -> list[tuple[Path, int]]:
    assert isinstance(split.images, FolderImages)
    return list(zip(split.images.paths, split.targets.tolist(), strict=True))
