"""A model that can be evaluated, wherever it computes: how it wants an image, and its answer to a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.card.kinds import OutputKind
from resx.errors import UsageError

Kind: TypeAlias = Literal["run", "variant", "network", "file", "version", "served"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is evaluated."""

    title: str
    kind: Kind
    labels: tuple[str, ...]
    """Of its outputs; empty where it names none."""
    num_outputs: int
    edge: int | None
    """Height and width of its images, if it takes them whole; None if it crops them or they are not square."""
    row_bytes: int
    """Of an image as it takes it."""
    batch_size: int
    """Of the largest batch."""
    in_flight: int = 1
    """Batches that it computes at the same time."""
    has_random_weights: bool = False
    prepare: Callable[[Image.Image, str], npt.NDArray[Any]]
    """One image, whose name errors begin with, as the model takes it: [1, ...]."""
    answer: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
    """The outputs [n, K] for up to `batch_size` prepared images; called in other threads."""
    output_kind: Callable[[npt.NDArray[np.float32]], OutputKind]
    """What the outputs [N, K] are."""


def require_classes(title: str, num_outputs: int) -> None:
    """Check that a model gives a number for each of two classes or more.

    Raises:
        UsageError: it does not.
    """
    if num_outputs < 2:
        what = "one number per image" if num_outputs else "an output of unknown size"
        raise UsageError(f"{title}: gives {what}, not one per class; evaluate a classifier")
