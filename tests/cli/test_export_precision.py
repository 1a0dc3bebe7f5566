"""`resx export --int8` and `--bf16` as a user gives them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from resx.card.signature import signature_of
from resx.data.digits import digits
from resx.export.int8.calibration import load_calibration
from resx.export.sources.source import load_source
from resx.training import recipes
from resx.training.runs import checkpoint
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec
from tests.support.command import Finished, refused
from tests.support.small_networks import with_statistics
from tests.support.tiny_models import tiny_spec

Resx = Callable[..., Finished]


def run_on_digits(folder: Path, *, data: str = "digits") -> ModelSpec:
    """A run's folder as training leaves it, with random weights."""
    image = digits(16).image
    spec = tiny_spec().model_copy(update={"mean": image.mean, "std": image.std})
    checkpoint.begin_run(folder, spec, recipes.configure(data, "digits", {}))
    save_file(with_statistics(build_from_spec(spec, seed=0)).state_dict(), folder / checkpoint.WEIGHTS)
    return spec


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--int8"], 2, ["real images", "--calibrate digits"]),
        (["--int8", "--fp16"], 2, ["--fp16 --int8", "one precision"]),
        (["--fp16", "--bf16"], 2, ["--fp16 --bf16"]),
        (["--calibrate", "digits"], 2, ["add --int8"]),
        (["--keep-fp32", "fc"], 2, ["add --int8"]),
        (["--int8", "--calibrate", "none"], 2, ["--calibrate none", "neither a folder"]),
        (["--int8", "--calibrate", "digits", "--calibrate-method", "mean"], 2, ["--calibrate-method mean", "minmax"]),
        (["--target", "tpu"], 2, ["--target tpu", "cpu, gpu"]),
        (["--bf16", "--target", "gpu"], 4, ["bf16", "use --fp16"]),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    resx: Resx, arguments: list[str], code: int, words: list[str], tmp_path: Path
) -> None:
    refused(resx("export", "resnet20", *arguments), code, *words)
    assert not list(tmp_path.rglob("model.onnx"))


def test_a_run_is_calibrated_on_its_own_training_images_and_the_json_says_all(resx: Resx, tmp_path: Path) -> None:
    run_on_digits(tmp_path / "r")
    cache = {"RESX_CACHE": str(tmp_path / "cache")}
    # Random weights have no margins: what is asked here is what the command does, not whether they survive.
    done = resx(
        "export",
        "r",
        "--int8",
        "--calibrate-images",
        "16",
        "--calibrate-method",
        "minmax",
        "--keep-fp32",
        "layer3.*",
        "--no-verify",
        "--json",
        env=cache,
    )
    assert done.code == 0, done.err
    said = done.json["quantisation"]
    assert said["calibrated_on"] == "training images of digits"
    assert (said["num_images"], said["is_random"]) == (16, False)
    assert [layer["layer"] for layer in said["kept_fp32"]] == ["layer3.0.conv1", "layer3.0.conv2"]
    assert done.json["operators_before"]["BatchNormalization"] == 7
    assert "BatchNormalization" not in done.json["operators_after"]
    card = json.loads((tmp_path / done.json["folder"] / "card.json").read_text())
    assert card["quantisation"] == said
    assert (tmp_path / "cache" / "calibration" / f"{said['table_key']}.json").is_file()

    shown = resx("export", "r", "--int8", "--calibrate", "random", "--calibrate-images", "4", "--no-verify", env=cache)
    assert shown.code == 0, shown.err
    assert "NOISE, no real images" in shown.out


def test_a_runs_training_images_are_taken_evenly_and_not_the_held_out(tmp_path: Path) -> None:
    spec = run_on_digits(tmp_path)
    found = load_calibration("", signature_of(spec, "uint8"), num_images=1000, seed=0, run=tmp_path)
    held_out = {image.tobytes() for image in load_source(str(tmp_path), weights="none", seed=0).real.images}
    train = {image.tobytes() for image in digits(16).train.images}
    assert {image.tobytes() for image in found.images} <= train
    assert len(found.images) == 1000
    assert len({image.tobytes() for image in found.images} & held_out) <= 2  # two people may draw the same digit


def test_a_run_whose_data_are_gone_says_what_to_give(resx: Resx, tmp_path: Path) -> None:
    run_on_digits(tmp_path / "r", data=f"cifar10:{tmp_path / 'gone'}")
    refused(resx("export", "r", "--int8"), 2, "training data cannot be loaded", "--calibrate digits")
