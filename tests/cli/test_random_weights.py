"""Predictions of a network that nobody trained are shown with a warning, on any server."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Finished
from tests.support.running_triton import RunningTriton

WARNING = "tiny has random weights: its predictions mean nothing"
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
