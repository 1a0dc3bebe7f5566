"""Predictions of a network that nobody trained are shown with a warning, on any server."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.training.config import TrainingConfig
from resx.training.runs.checkpoint import write_run
from resx.zoo.building import build_from_spec
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import tiny_spec

WARNING = "warning: tiny has random weights: its answers mean nothing"
pytestmark = pytest.mark.triton


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "p.png"
    path.parent.mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)
    return path


def test_a_query_of_a_server_whose_cards_are_elsewhere_warns_once(
    triton: RunningTriton, resx: Callable[..., Finished], picture: Path
) -> None:
    done = resx("query", "tiny", picture, "--url", triton.url())
    assert (done.code, done.err.count(WARNING)) == (0, 1), done.err
    assert "random" not in done.out
    done = resx("query", "tiny", picture, "--url", triton.url(), "--json", "-q")
    assert (done.json["random_weights"], done.err) == (True, "")


def test_an_export_of_random_weights_warns_and_one_of_trained_ones_does_not(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    done = resx("export", "resnet20", "--name=tiny")
    assert (done.code, done.err.count(WARNING)) == (0, 1), done.err
    done = resx("export", "resnet20", "--name=tiny", "--json", "-q")
    assert (done.json["random_weights"], done.err) == (True, "")
    spec = tiny_spec()
    write_run(tmp_path / "tiny", build_from_spec(spec, seed=0), spec, TrainingConfig(data="digits"))
    done = resx("export", "tiny", "--repository=trained", "--json")
    assert (done.json["random_weights"], WARNING in done.err) == (False, False)


@pytest.mark.parametrize(
    "words",
    [
        ["deploy", "tiny"],
        ["predict", "tiny", "pictures", "-o", "new.csv"],
        ["bench", "tiny", "--concurrency", "1", "--duration", "0.3", "--warmup", "0"],
    ],
)
def test_whatever_shows_or_serves_its_predictions_warns_too(
    triton: RunningTriton, resx: Callable[..., Finished], picture: Path, words: list[str]
) -> None:
    done = resx(*words, "--repository", triton.repository.root)
    assert (done.code, done.err.count(WARNING)) == (0, 1), done.err
