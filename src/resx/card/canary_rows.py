"""The canary: a few rows whose answers are recorded, by which a server shows that it computes the same."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import FailFast, Field

from resx.card.kinds import BatchSize, Finite
from resx.card.signature import Signature
from resx.values import FrozenModel


class Canary(FrozenModel):
    """A request with a known answer: how to make its input, and the logits that the model file gave."""

    num_images: BatchSize
    logits: Annotated[tuple[Annotated[tuple[Finite, ...], FailFast()], ...], FailFast()]
    tolerance: float = Field(ge=0, allow_inf_nan=False)
    """Largest accepted difference, times the logits' scale; runtimes differ in the order of sums."""

    @pydantic.model_validator(mode="after")
    def _has_an_answer_for_each(self) -> Canary:
        if len(self.logits) != self.num_images:
            raise ValueError(f"{len(self.logits)} answers for {self.num_images} images")
        return self


def canary_input(signature: Signature, num_rows: int) -> npt.NDArray[Any]:
    """Return the canary's input [N, ...], the same bytes on every machine and in every version.

    It comes from SHAKE-256 rather than from a generator whose stream a library may change.
    """
    shape = (num_rows, *signature.pixel_dims)
    pixels = np.frombuffer(hashlib.shake_256(b"resx canary").digest(math.prod(shape)), dtype=np.uint8)
    return signature.as_input(pixels.reshape(shape))


def int8_input(signature: Signature, num_rows: int) -> npt.NDArray[Any]:
    """Return rows for 8-bit kernels [N, ...], the same bytes on every machine: even squares, 2 to 32 pixels wide.

    Every second row knows black and white alone: the largest values together are where products of 8 bits overflow.
    """
    channels, height, width = signature.pixel_dims
    rows = []
    for index in range(num_rows):
        side = 2 ** (1 + index % 5)
        shape = (channels, -(-height // side), -(-width // side))
        made = hashlib.shake_256(f"resx int8 row {index}".encode()).digest(math.prod(shape))
        squares = np.frombuffer(made, dtype=np.uint8).reshape(shape)
        squares = np.where(squares > 127, 255, 0).astype(np.uint8) if index % 2 else squares
        rows.append(squares.repeat(side, 1).repeat(side, 2)[:, :height, :width])
    return signature.as_input(np.stack(rows))


def canary_difference(canary: Canary, answer: npt.NDArray[np.floating[Any]]) -> float:
    """Return the largest difference from the recorded logits, relative to their scale; inf if not comparable."""
    expected = np.asarray(canary.logits, dtype=np.float64)
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(answer - expected).max() / (np.abs(expected).max() or 1.0))
