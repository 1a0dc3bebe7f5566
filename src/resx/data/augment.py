"""Random changes of training images. What is random is drawn first and applied afterwards.

So every process of a run draws for the whole batch and applies its part: how a batch is spread over
processes changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

BLACK = (0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What happens to each of N images."""

    max_px: int
    offsets: npt.NDArray[np.int64]
    """[N, 2]: where the crop begins in the image padded by `max_px`, in 0..2 max_px."""
    flips: npt.NDArray[np.bool_]
    """[N]: mirror left to right."""
    boxes: npt.NDArray[np.float64] | None = None
    """[N, 4]: top, left, height and width of the part that is enlarged to the whole image, as shares of its sides;
    None leaves the images whole."""

    def part(self, chosen: slice) -> Draws:
        """Return the draws of some of the images."""
        boxes = None if self.boxes is None else self.boxes[chosen]
        return replace(self, offsets=self.offsets[chosen], flips=self.flips[chosen], boxes=boxes)


def draw(num_images: int, random: np.random.Generator, *, max_px: int, flip: bool, resized_crop: bool = False) -> Draws:
    """Draw what happens to each image.

    Args:
        num_images: N.
        random: the epoch's generator.
        max_px: how far an image may move each way.
        flip: mirror half of the images.
        resized_crop: enlarge a part of each image, of 8 to 100 % of its area and with sides of 3:4 to 4:3.
    """
    offsets = random.integers(0, 2 * max_px + 1, size=(num_images, 2))
    flips = random.random(num_images) < 0.5 if flip else np.zeros(num_images, dtype=np.bool_)
    boxes = _draw_boxes(num_images, random) if resized_crop else None
    return Draws(max_px=max_px, offsets=offsets, flips=flips, boxes=boxes)


def _draw_boxes(num_images: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw boxes as torchvision's RandomResizedCrop does; a side that would be too long is the whole side instead."""
    areas = random.uniform(0.08, 1.0, num_images)
    ratios = np.exp(random.uniform(-math.log(4 / 3), math.log(4 / 3), num_images))
    sides = np.minimum(np.sqrt(np.stack([areas / ratios, areas * ratios], 1)), 1.0)
    return np.concatenate([random.random((num_images, 2)) * (1.0 - sides), sides], 1)


def augment(
    images_NCHW: npt.NDArray[np.uint8], draws: Draws, *, edge: tuple[int, int, int] = BLACK
) -> npt.NDArray[np.uint8]:
    """Return the images, each cropped, moved and mirrored as drawn; what an image leaves bare gets the color `edge`."""
    if draws.boxes is not None:
        pairs = zip(images_NCHW, draws.boxes, strict=True)
        images_NCHW = np.stack([_enlarge(image, *box.tolist()) for image, box in pairs])
    (num_images, channels, height, width), border = images_NCHW.shape, draws.max_px
    padded = np.empty((num_images, channels, height + 2 * border, width + 2 * border), dtype=np.uint8)
    padded[:] = np.array(edge, dtype=np.uint8)[:, None, None]
    padded[:, :, border : border + height, border : border + width] = images_NCHW
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, draws.offsets, strict=True)]
    return np.stack([image[:, :, ::-1] if flip else image for image, flip in zip(moved, draws.flips, strict=True)])


def _enlarge(
    image_CHW: npt.NDArray[np.uint8], top: float, left: float, height: float, width: float
) -> npt.NDArray[np.uint8]:
    """Bring a part of an image, given as shares of its sides, to the size of the image."""
    _, rows, columns = image_CHW.shape
    box = (left * columns, top * rows, min(left + width, 1.0) * columns, min(top + height, 1.0) * rows)
    whole = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
    return np.asarray(whole.resize((columns, rows), Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)
