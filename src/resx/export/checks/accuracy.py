"""Images whose classes are known, and which of them a model gets right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resx.data.dataset import DataSet, Images, pick_evenly
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.export.checks.parity import TOLERANCES, Logits, drop_low
from resx.files.listing import skipped_words

Answers: TypeAlias = Callable[[npt.NDArray[np.uint8]], Logits]
"""Logits [N, classes] for UINT8 images [N, 3, H, W]; N is at most the batch that the model takes."""

LARGEST_DROP = TOLERANCES["int8"].accuracy_drop or 0.0
"""One point, for every precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Images and their classes."""

    images: Images
    classes: npt.NDArray[np.int64]
    """[N]."""
    origin: str
    """For people."""

    def __len__(self) -> int:
        return len(self.classes)

    def pick(self, most: int) -> Labelled:
        """Return at most so many of the images, evenly spaced."""
        chosen = pick_evenly(len(self), most)
        return Labelled(images=self.images[chosen], classes=self.classes[chosen], origin=self.origin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracies:
    """Which of the same images each form of a model gets right."""

    images: str
    """Where they are from."""
    right: Mapping[str, npt.NDArray[np.bool_]]
    """[N] by what was asked, from the source to what was made of it last."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(next(iter(self.right.values())))

    @property
    def shares(self) -> dict[str, float]:
        """The share of the images that each gets right."""
        return {name: float(right.mean()) for name, right in self.right.items()}

    @property
    def drop(self) -> float:
        """The most that accuracy falls from one to the next; below 0 if it only rises."""
        return max((before - behind for before, behind in itertools.pairwise(self.shares.values())), default=0.0)

    @property
    def text(self) -> str:
        """In words."""
        shares = ", ".join(f"{name} {share:.2%}" for name, share in self.shares.items())
        return f"{shares} of {self.num_images} {self.images}"

    @property
    def passed(self) -> bool:
        """Whether accuracy surely falls by no more than a point (`resx.export.checks.parity`, 4)."""
        return all(
            drop_low(before, behind) <= LARGEST_DROP for before, behind in itertools.pairwise(self.right.values())
        )


def held_out_images(data: DataSet) -> Labelled:
    """Return all held-out images of a data set."""
    words = skipped_words(data.others, data.hidden)
    skipped = "".join(f"; {note[0].lower()}{note[1:]}" for note in data.notes) + (f"; skipped {words}" if words else "")
    return Labelled(
        images=data.held_out.images,
        classes=data.held_out.targets,
        origin=f"held-out images of {data.name}{skipped}",
    )


def load_labelled(text: str, *, image_size: int, num_classes: int, num_images: int) -> Labelled:
    """Load at most `num_images` of a data set's held-out images, spread evenly over them.

    Args:
        text: `digits`, `mnist5k`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`.
        image_size: pixels each way.
        num_classes: that the model tells apart.
        num_images: 1 or more.

    Raises:
        UsageError: there is no such data set, not at this size, or it has other classes.
    """
    if num_images < 1:
        raise UsageError(f"--images {num_images}: give 1 or more")
    data = load_data(text, image_size=image_size)
    if len(data.labels) != num_classes:
        raise UsageError(
            f"--data {text}: has {len(data.labels)} classes and the model {num_classes}; use data with the model's "
            "classes"
        )
    return held_out_images(data).pick(num_images)


def right_answers(answers: Answers, labelled: Labelled, *, batch_size: int) -> npt.NDArray[np.bool_]:
    """Return of each image [N] whether it is answered right.

    Every batch has `batch_size` images, the last one filled up: a file may take no other.
    """
    num_images = len(labelled)
    places = np.minimum(np.arange(-(-num_images // batch_size) * batch_size), num_images - 1)
    predicted = [answers(labelled.images[batch]).argmax(1) for batch in places.reshape(-1, batch_size)]
    found: npt.NDArray[np.bool_] = np.concatenate(predicted)[:num_images] == labelled.classes
    return found
