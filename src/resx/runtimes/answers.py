"""What a model's answer is held to, whichever runtime gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import ParityError


class RowsChanged(ParityError):  # noqa: N818 - named after what happened
    """A model gave more or fewer rows than it was asked for."""


def rows_of(answer: npt.NDArray[Any], num_images: int, path: Path) -> npt.NDArray[np.float32]:
    """Return the logits [N, classes] of an answer; one of more axes is flattened.

    Raises:
        RowsChanged: it has not a row for each image.
    """
    if answer.ndim == 0 or len(answer) != num_images:
        raise RowsChanged(
            f"{path}: gives {list(answer.shape)} for a batch of {num_images}; each image must have its own row"
        )
    return answer.reshape(len(answer), -1).astype(np.float32, copy=False)
