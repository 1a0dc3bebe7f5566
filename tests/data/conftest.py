"""An archive of CIFAR-10."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.support.cifar_archives import write_cifar10


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    return write_cifar10(tmp_path / "cifar-10-batches-py")


@pytest.fixture
def packed(cifar10: Path, tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(cifar10, "cifar-10-batches-py")
    return tmp_path / "cifar-10-python.tar.gz"
