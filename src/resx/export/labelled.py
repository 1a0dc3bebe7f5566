"""Images whose classes are known, and how many of them a model gets right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from resx.errors import UsageError
from resx.export.images import RealImages
from resx.export.parity import TOLERANCES, Images, Logits
from resx.listing import hidden_words
from resx.training.data import load_data

Answers: TypeAlias = Callable[[Images], Logits]
"""Logits [N, classes] for UINT8 images [N, 3, H, W]; N is at most the batch that the model takes."""

LARGEST_DROP = TOLERANCES["int8"].accuracy_drop or 0.0
"""int8's bar, which every precision has to meet here."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracies:
    """The share of images that each form of a model gets right."""

    num_images: int
    images: str
    """Where they are from."""
    shares: Mapping[str, float]
    """By what was asked, from the source to what was made of it last."""

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
        """Whether accuracy falls by no more than a point."""
        return self.drop <= LARGEST_DROP + _ROUNDING


def load_labelled(text: str, *, image_size: int, num_classes: int, num_images: int) -> RealImages:
    """Load at most `num_images` of a data set's held-out images, spread evenly over them.

    Args:
        text: `digits`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`.
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
            f"--data {text}: has {len(data.labels)} classes and the model tells {num_classes} apart; "
            "give data of the model's classes"
        )
    total = len(data.held_out)
    chosen = np.linspace(0, total - 1, min(total, num_images)).astype(np.int64)
    return RealImages(
        images=data.held_out.images[chosen],
        origin=f"held-out images of {data.name}" + (f"; skipped {hidden_words(data.hidden)}" if data.hidden else ""),
        classes=data.held_out.targets[chosen],
    )


def accuracy(answers: Answers, labelled: RealImages, *, batch_size: int) -> float:
    """Return the share of the images, whose classes are known, that are answered right.

    Every batch has `batch_size` images, the last one filled up: a file may take no other.
    """
    assert labelled.classes is not None
    num_images = len(labelled.images)
    places = np.minimum(np.arange(-(-num_images // batch_size) * batch_size), num_images - 1)
    batches = labelled.images[places].reshape(-1, batch_size, *labelled.images.shape[1:])
    predicted = np.concatenate([answers(batch).argmax(1) for batch in batches])[:num_images]
    return float((predicted == labelled.classes).mean())
