"""Calibration images: their order decides nothing, and images of one color show nothing."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, calibrate
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from PIL import Image

from resx.card.kinds import CALIBRATION_METHODS, TARGETS, CalibrationMethod, Target
from resx.card.signature import signature_of
from resx.data.photographs import photograph_crops
from resx.errors import UsageError
from resx.export.graph.onnx_writer import write_onnx
from resx.export.int8 import quantization
from resx.export.int8.calibration import Ranges, load_calibration
from resx.streams import silence_library
from resx.zoo.building import build_from_spec
from tests.support.command import Finished
from tests.support.int8_models import PHOTOGRAPHS
from tests.support.small_networks import tiny_densenet, with_statistics
from tests.support.tiny_models import tiny_spec

SPEC = tiny_spec()
SIGNATURE = signature_of(SPEC, "uint8")
PLAIN = {
    "black": np.zeros((200, 3, 16, 16), np.uint8),
    "white": np.full((200, 3, 16, 16), 255, np.uint8),
    "greys": np.arange(200, dtype=np.uint8).repeat(3 * 16 * 16).reshape(200, 3, 16, 16),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    model = with_statistics(build_from_spec(SPEC, seed=0)).eval()
    write_onnx(model, SPEC, folder / "fp32.onnx", precision="fp32", input_type="uint8", target="cpu")
    quantization.prepare(folder / "fp32.onnx", folder / "prepared.onnx", target="cpu")
    return folder / "prepared.onnx"


def digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


class OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """A batch, then None."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.left = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def ranges(prepared: Path, images: np.ndarray, method: CalibrationMethod) -> Ranges:
    return quantization.find_ranges(prepared, images, method, SIGNATURE)


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
@pytest.mark.parametrize("plain", PLAIN)
def test_two_hundred_plain_frames_before_photographs_change_no_range(
    method: CalibrationMethod, plain: str, prepared: Path
) -> None:
    photographs = PHOTOGRAPHS[:20]
    before = ranges(prepared, np.concatenate([PLAIN[plain], photographs]), method)
    assert before == ranges(prepared, np.concatenate([photographs, PLAIN[plain]]), method)
    for name, (low, high) in ranges(prepared, photographs, method).items():
        slack = 0.1 * (high - low)  # a percentile is one of all values, plain ones included
        assert before[name][0] <= low + slack, name
        assert before[name][1] >= high - slack, name


def test_frames_of_the_mean_color_before_photographs_change_no_range(tmp_path: Path) -> None:
    # In a network without biases they leave rounding noise, in whose bins a photograph needs a hundred gigabytes.
    grey = np.full((70, 3, 16, 16), 128, np.uint8)
    photographs = np.stack([image for image in PHOTOGRAPHS if digest(image) > digest(grey[0])])  # in a later batch
    spec = SPEC.model_copy(update={"mean": (128 / 255,) * 3})
    write_onnx(
        build_from_spec(spec, seed=0).eval(), spec, tmp_path / "fp32.onnx",
        precision="fp32", input_type="uint8", target="cpu",
    )  # fmt: skip
    quantization.prepare(tmp_path / "fp32.onnx", tmp_path / "prepared.onnx", target="cpu")
    alone = ranges(tmp_path / "prepared.onnx", photographs, "percentile")
    together = ranges(tmp_path / "prepared.onnx", np.concatenate([grey, photographs]), "percentile")
    for name, (low, high) in alone.items():
        slack = 0.1 * (high - low)
        assert together[name][0] <= low + slack, name
        assert together[name][1] >= high - slack, name


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_one_image_and_the_same_image_again_and_again_are_enough(method: CalibrationMethod, prepared: Path) -> None:
    one = ranges(prepared, PHOTOGRAPHS[:1], method)
    many = ranges(prepared, PHOTOGRAPHS[:1].repeat(70, 0), method)
    for name, bounds in one.items():
        assert many[name] == pytest.approx(bounds, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_entropy_without_histograms_is_onnxruntimes_with_them(target: Target, tmp_path: Path) -> None:
    spec = tiny_densenet()
    model = with_statistics(build_from_spec(spec, seed=0)).eval()
    write_onnx(model, spec, tmp_path / "fp32.onnx", precision="fp32", input_type="uint8", target=target)
    quantization.prepare(tmp_path / "fp32.onnx", tmp_path / "prepared.onnx", target=target)
    signature = signature_of(spec, "uint8")
    images = photograph_crops(12, spec.image_size, seed=3)

    ours = quantization.find_ranges(tmp_path / "prepared.onnx", images, "entropy", signature)

    with silence_library():
        theirs = calibrate.create_calibrator(
            tmp_path / "prepared.onnx",
            sorted({*QLinearOpsRegistry, *QDQRegistry}),
            str(tmp_path / "augmented.onnx"),
            calibrate.CalibrationMethod.Entropy,
        )
        theirs.collect_data(OneBatch({signature.input_name: images}))
        found = theirs.compute_data()
    expected = {name: [float(bound) for bound in data.range_value] for name, data in found.items()}
    assert len(expected) > 10
    assert ours.keys() == expected.keys()
    for name, (low, high) in expected.items():
        assert ours[name] == pytest.approx((low, high), rel=1e-5, abs=1e-5 * (high - low)), name


def test_progress_counts_every_image_once_and_ends_with_all(prepared: Path) -> None:
    said: list[str] = []
    fixed = SIGNATURE.model_copy(update={"batch": 8})
    quantization.find_ranges(prepared, PHOTOGRAPHS[:20], "minmax", fixed, on_progress=said.append)
    assert said == ["8 of 24 images", "16 of 24 images", "24 of 24 images"]  # the last batch is filled up


def test_a_file_of_a_fixed_batch_sees_every_image(prepared: Path) -> None:
    fixed = SIGNATURE.model_copy(update={"batch": 16})
    batches = quantization.batches(PHOTOGRAPHS[:20], fixed)
    assert [len(batch) for batch in batches] == [16, 16]
    assert len(np.unique(np.concatenate(batches), axis=0)) == 20
    assert [len(batch) for batch in quantization.batches(PHOTOGRAPHS[:1], fixed)] == [16]


def test_values_that_are_not_finite_are_refused_by_their_tensor(tmp_path: Path) -> None:
    model = with_statistics(build_from_spec(SPEC, seed=0)).eval()
    with torch.no_grad():
        model.get_submodule("conv1").weight.fill_(3e38)  # type: ignore[operator, union-attr]
    write_onnx(model, SPEC, tmp_path / "fp32.onnx", precision="fp32", input_type="uint8", target="cpu")
    quantization.prepare(tmp_path / "fp32.onnx", tmp_path / "prepared.onnx", target="cpu")
    for method in CALIBRATION_METHODS:
        with pytest.raises(UsageError, match="on the calibration images; int8 needs finite values"):
            ranges(tmp_path / "prepared.onnx", PHOTOGRAPHS[:4], method)


@pytest.mark.parametrize("plain", PLAIN)
def test_images_of_one_color_each_are_refused_for_that(plain: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", PLAIN[plain])
    with pytest.raises(UsageError, match=r"--calibrate .*x.npz: all 200 images are of one color"):
        load_calibration(str(tmp_path / "x.npz"), SIGNATURE, num_images=512, seed=0, run=None)
    with pytest.raises(UsageError, match="the one image is of one color"):
        load_calibration(str(tmp_path / "x.npz"), SIGNATURE, num_images=1, seed=0, run=None)
    np.savez(tmp_path / "x.npz", np.concatenate([PLAIN[plain], PHOTOGRAPHS[:1]]))  # blank tiles among others
    found = load_calibration(str(tmp_path / "x.npz"), SIGNATURE, num_images=512, seed=0, run=None)
    assert len(found.images) == 201


def test_the_command_refuses_a_folder_of_black_frames_in_one_line(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    (tmp_path / "black").mkdir()
    for index in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / "black" / f"{index}.jpg")
    done = resx("export", "resnet20", "--int8", "--calibrate", "black", "-q")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "--calibrate black: all 3 images are of one color" in done.err
    assert not (tmp_path / "model_repository").exists()


def test_images_are_taken_evenly_from_the_first_to_the_last(tmp_path: Path) -> None:
    """Data are often in the order of their classes: the first ones would be of one class."""
    images = np.arange(10, dtype=np.uint8).repeat(3 * 16 * 16).reshape(10, 3, 16, 16)
    images[:, :, 0, 0] = 255  # not of one color
    np.savez(tmp_path / "images.npz", images)

    found = load_calibration(str(tmp_path / "images.npz"), SIGNATURE, num_images=4, seed=0, run=None)

    assert found.images[:, 0, 1, 1].tolist() == [0, 3, 6, 9]
