"""Files from anybody, given to the real commands: one line, at once, whether a server runs or not."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Finished
from tests.support.image_files import encoded


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("b.png", "image of 9000 x 9000 pixels: the limit is 64,000,000; make it smaller, or raise --max-megapixels"),
        ("pipe.png", "a pipe, not a regular file"),
        ("/dev/zero", "a device, not a regular file"),
        ("large.png", "file of 34,000,000 bytes: the limit is 33,554,432; make it smaller, or raise --max-file-mib"),
    ],
)
def test_query_refuses_before_it_sends(resx: Callable[..., Finished], tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "b.png").write_bytes(encoded("PNG", Image.new("1", (9000, 9000))))
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(34_000_000)
    done = resx("query", "resnet20", name, "--url", "127.0.0.1:1")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert done.err.startswith(f"error: {name}: {reason}")


def test_training_names_the_strip_and_the_pipe_and_skips_them_when_asked(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "fold" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    Image.new("RGB", (12_000, 1)).save(tmp_path / "fold" / "a" / "thin.png")
    (tmp_path / "fold" / "b" / "link.png").symlink_to("/dev/zero")
    ask = ("train", "resnet20", "--image-size", "224", "--data", "folder:fold", "--epochs", "1", "-o", "r")
    done = resx(*ask)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "a/thin.png" in done.err
    assert "image of 12000 x 1 pixels: too long and thin: it would be resized to 3072000 x 256" in done.err
