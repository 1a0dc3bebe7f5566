"""A published model and images to score."""

from __future__ import annotations

from pathlib import Path

import pytest

from resx.repository.versions import Repository
from tests.support.image_files import write_images
from tests.support.tiny_models import publish_tiny


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
