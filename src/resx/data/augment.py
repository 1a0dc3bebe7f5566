"""Random changes of training images. What is random is drawn first and applied afterwards.

So every process of a run draws for the whole batch and applies its part: how a batch is spread over
processes changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What happens to each of N images."""

    max_px: int
    offsets: npt.NDArray[np.int64]
    """[N, 2]: where the crop begins in the image padded by `max_px`, in 0..2 max_px."""
    flips: npt.NDArray[np.bool_]
    """[N]: mirror left to right."""

    def part(self, chosen: slice) -> Draws:
        """Return the draws of some of the images."""
        return Draws(max_px=self.max_px, offsets=self.offsets[chosen], flips=self.flips[chosen])


def draw(num_images: int, random: np.random.Generator, *, max_px: int, flip: bool) -> Draws:
    """Draw an offset of up to `max_px` pixels each way, and with `flip` a mirroring, for each image."""
    offsets = random.integers(0, 2 * max_px + 1, size=(num_images, 2))
    flips = random.random(num_images) < 0.5 if flip else np.zeros(num_images, dtype=np.bool_)
    return Draws(max_px=max_px, offsets=offsets, flips=flips)


def augment(images_NCHW: npt.NDArray[np.uint8], draws: Draws) -> npt.NDArray[np.uint8]:
    """Return the images, each moved (edges filled with zeros) and mirrored as drawn."""
    height, width = images_NCHW.shape[2:]
    border = (draws.max_px, draws.max_px)
    padded = np.pad(images_NCHW, ((0, 0), (0, 0), border, border))
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, draws.offsets, strict=True)]
    return np.stack([image[:, :, ::-1] if flip else image for image, flip in zip(moved, draws.flips, strict=True)])
