"""The labeled images that a model is evaluated on: a part of a data set, one image at a time.

    held-out    a folder's val/ or every fifth image of each class; CIFAR's test images
    train       what is trained on
    all         both

A folder's files are opened one by one, and every model prepares them its own way. Data in memory are made at the size
that a model was trained at, where they can be (digits, MNIST); a model that crops its images gets them as they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.analysis.classification.evaluation import ImagesUsed
from resx.data.dataset import BadImages, DataSet, Images, Split
from resx.data.folder import FolderImages, load_whole_folder
from resx.data.folder_layout import find_layout
from resx.data.image_decoding import open_image, read_image_file
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.files.fingerprint import Fingerprint
from resx.files.listing import list_folders

Part: TypeAlias = Literal["held-out", "train", "all"]
PARTS: tuple[Part, ...] = ("held-out", "train", "all")
OpenImage: TypeAlias = Callable[[int], AbstractContextManager[Image.Image]]
"""Gives an image by its number, RGB."""

_MADE_TO_SIZE = ("digits", "mnist5k")
_SMALLEST = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationImages:
    """Images, their classes and their names."""

    text: str
    """As the user named the data."""
    part: Part
    labels: tuple[str, ...]
    """The data's classes."""
    targets: npt.NDArray[np.int64]
    """[N]."""
    names: tuple[str, ...]
    """A file's path below the folder; the number within its part for data in memory."""
    images: Images
    """[N, 3, S, S], or a folder's files."""
    edge: int
    """S."""
    origin: str
    """For people."""
    num_skipped: int
    remarks: tuple[str, ...]
    fingerprint: Fingerprint | None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def used(self) -> ImagesUsed:
        """Return what an evaluation says of them."""
        return ImagesUsed(
            data=self.text, part=self.part, origin=self.origin, num_images=len(self), num_skipped=self.num_skipped
        )

    def opener(self, edge: int | None) -> OpenImage:
        """Return what opens an image; data in memory are made at `edge` pixels each way where they can be."""
        if isinstance(self.images, FolderImages):
            return partial(_open_file, self.images.paths)
        images = self.images
        if edge is not None and edge != self.edge and _size_for(self.text, edge):
            images = load_images(self.text, self.part, edge=edge).images
        return partial(_open_array, images)


def load_images(
    text: str, part: Part, *, edge: int | None = None, bad_images: BadImages = "refuse"
) -> EvaluationImages:
    """Load a part of a data set.

    Args:
        text: `digits`, `mnist5k`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`.
        part: of the data set.
        edge: the size that data in memory are made at, where they can be.
        bad_images: for a folder.

    Raises:
        UsageError: there is no such data set, its files cannot be used, or the part has no image.
        MissingCapability: a package that carries the data is not installed.
    """
    kind, _, place = text.partition(":")
    size = _size_for(text, edge)
    if kind == "folder" and place and part == "all":
        data = load_whole_folder(Path(place), image_size=size or 224, bad_images=bad_images)
    else:
        data = load_data(text, image_size=size, bad_images=bad_images)
    chosen = _choose(data, part)
    targets = np.concatenate([split.targets for _, split in chosen])
    if not len(targets):
        raise UsageError(f"--part {part}: {text} has no such images; choose another part")
    return EvaluationImages(
        text=text,
        part=part,
        labels=data.labels,
        targets=targets,
        names=tuple(name for word, split in chosen for name in _names(word, split, place)),
        images=_join([split.images for _, split in chosen]),
        edge=data.image.image_size,
        origin=_origin(text, part, len(targets)),
        num_skipped=len(data.skipped),
        remarks=tuple(data.remarks),
        fingerprint=data.fingerprint,
    )


def _size_for(text: str, edge: int | None) -> int | None:
    """Return the size that data in memory are made at; None for those that have one."""
    return edge if edge is not None and edge >= _SMALLEST and text.partition(":")[0] in _MADE_TO_SIZE else None


def _choose(data: DataSet, part: Part) -> list[tuple[str, Split]]:
    parts: list[tuple[Part, Split]] = [("train", data.train), ("held-out", data.held_out)]
    return [(name, split) for name, split in parts if part in (name, "all")]


def _names(word: str, split: Split, root: str) -> list[str]:
    if isinstance(split.images, FolderImages):
        return [os.path.relpath(path, root) for path in split.images.paths]
    return [f"{word}/{number}" for number in range(len(split))]


def _join(parts: list[Images]) -> Images:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, FolderImages) for part in parts):
        folders = [part for part in parts if isinstance(part, FolderImages)]
        return FolderImages(paths=tuple(path for part in folders for path in part.paths), image=folders[0].image)
    return np.concatenate([part[:] for part in parts])


def _origin(text: str, part: Part, num_images: int) -> str:
    kind, _, place = text.partition(":")
    images = f"{num_images:,} {dict(zip(PARTS, ('held-out ', 'training ', ''), strict=True))[part]}image"
    images += "s" * (num_images != 1)
    divided = (
        kind == "folder" and part != "all" and len(find_layout(Path(place), list_folders(Path(place))[0]).parts) < 2
    )
    rule = {"held-out": " (every fifth of each class)", "train": " (all but every fifth of each class)"}
    return f"{images} of {text}{rule[part] if divided else ''}"


def _open_file(paths: tuple[Path, ...], number: int) -> AbstractContextManager[Image.Image]:
    return open_image(read_image_file(paths[number]), paths[number])


def _open_array(images: Images, number: int) -> AbstractContextManager[Image.Image]:
    (pixels,) = images[number : number + 1]
    return contextlib.nullcontext(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
