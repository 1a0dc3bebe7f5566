"""From pixels to the numbers that a file's image input holds: scaled, normalized, in its order of channels and axes.

Images are prepared as UINT8 [N, 3, H, W] in the order R, G, B; what a file takes may have the channels last, in the
order B, G, R, and white as 255. Needs numpy alone, as clients do the same.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from resx.card.kinds import ChannelOrder, Layout, PixelMax

_Number = TypeVar("_Number", bound=np.generic)


def as_float(
    images_NCHW: npt.NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...], *, pixel_max: PixelMax = 1
) -> npt.NDArray[np.float32]:
    """Return (pixels - mean) / std as FP32 [N, 3, H, W], where white is `pixel_max` before the mean is subtracted."""
    x_NCHW = images_NCHW.astype(np.float32)
    if pixel_max == 1:
        x_NCHW /= np.float32(255)
    channels = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
    return (x_NCHW - next(channels)) / next(channels)


def order_channels(x_NCHW: npt.NDArray[_Number], layout: Layout, channels: ChannelOrder) -> npt.NDArray[_Number]:
    """Return the images [N, 3, H, W] in the order R, G, B as a file takes them."""
    if channels == "bgr":
        x_NCHW = x_NCHW[:, ::-1]
    return np.ascontiguousarray(x_NCHW.transpose(0, 2, 3, 1) if layout == "nhwc" else x_NCHW)
