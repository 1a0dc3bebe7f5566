"""Image files as requests of an image endpoint: their bytes as they are, which the server decodes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.data.image_decoding import read_image_file
from resx.errors import UsageError


def sample_photographs() -> list[Path]:
    """Return scikit-learn's two photographs, JPEG files.

    Raises:
        UsageError: it is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    folder = Path(spec.origin).parent / "datasets" / "images" if spec and spec.origin else None
    found = sorted(folder.glob("*.jpg")) if folder else []
    if not found:
        raise UsageError(
            "scikit-learn is not installed, and its photographs are the default input; give --data DIR with images"
        )
    return found


def file_tensors(paths: Sequence[Path]) -> tuple[npt.NDArray[Any], ...]:
    """Return each file as a tensor of its bytes.

    Raises:
        UsageError: as `read_image_file`.
    """
    return tuple(np.frombuffer(read_image_file(path), np.uint8) for path in paths)
