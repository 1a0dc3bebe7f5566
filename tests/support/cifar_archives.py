"""CIFAR's archives as the real ones are laid out, with a handful of images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np


def cifar_pixels(num: int, seed: int) -> np.ndarray:
    """Rows of pixels, as a batch holds them."""
    return np.random.default_rng(seed).integers(0, 256, (num, 3072), dtype=np.uint8)


def write_cifar10(folder: Path, protocol: int = 2) -> Path:
    """Write CIFAR-10 as it lies unpacked, with 20 images to train on and 3 to test."""
    folder.mkdir(parents=True)
    for number in range(1, 6):
        batch = {b"data": cifar_pixels(4, number), b"labels": [0, 1, 2, number]}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol))
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": cifar_pixels(3, 9), b"labels": [9, 8, 7]}, protocol))
    meta = {b"label_names": [f"name{number}".encode() for number in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return folder
