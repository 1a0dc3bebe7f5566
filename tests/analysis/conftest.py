"""Small networks, a small data set and the runs that the tests of this room work on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resx.data.dataset import DataSet
from resx.data.loading import load_data
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from tests.support.small_networks import small_spec


@pytest.fixture(scope="session")
def digits8() -> DataSet:
    return load_data("digits", image_size=8)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a function that trains a small network of a kind, once, and returns its run's folder."""
    folder = tmp_path_factory.mktemp("runs")

    def run(kind: str) -> Path:
        if not (folder / kind).exists():
            spec = small_spec(kind, survival=0.7 if kind == "resnet" else 1.0)
            changes = {"epochs": 2, "batch_size": 32}
            train(
                TrainingRun(
                    spec=spec,
                    data=load_data("digits", image_size=8),
                    config=configure("digits", "digits", changes),
                    folder=folder / kind,
                )
            )
        return folder / kind

    return run
