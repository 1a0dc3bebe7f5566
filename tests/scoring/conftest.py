"""A published model and images to score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.repository.versions import Repository
from tests.conftest import publish_tiny


def write_images(folder: Path, num_images: int, *, seed: int = 0) -> Path:
    """Write small JPEGs of noise, below two folders."""
    random = np.random.default_rng(seed)
    for number in range(num_images):
        path = folder / f"{number % 2}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with `tiny`: batches up to 4."""
    repository = Repository(tmp_path_factory.mktemp("scored") / "model_repository")
    publish_tiny(repository, "tiny")
    return repository


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 images, a broken one, an empty one, and a text beside them."""
    folder = write_images(tmp_path_factory.mktemp("images"), 42)
    (folder / "0" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (folder / "1" / "empty.png").touch()
    (folder / "readme.txt").write_text("no image")
    (folder / ".hidden.jpg").write_bytes(b"of a desktop")
    return folder
