"""`resx evaluate`: every kind of model on labeled images, against scikit-learn's figures, and all that is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image
from sklearn import metrics

from resx.data.loading import load_data
from resx.repository.versions import Repository
from resx.training.evaluation import logits
from resx.training.recipes import configure
from resx.training.runs.checkpoint import write_run
from tests.support.command import Resx, refused
from tests.support.onnx_files import channel_means, network, saved
from tests.support.report_page import read_page
from tests.support.running_triton import RunningTriton
from tests.support.small_networks import small_network
from tests.support.tiny_models import publish_tiny

COLORS = {"blue": (0, 0, 255), "lime": (0, 255, 0), "red": (255, 0, 0)}
WHOLE = ("--part", "all")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, of an untrained network."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    model, spec = small_network("resnet")
    write_run(folder, model, spec, configure("digits", "digits", {}))
    return folder


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "other"
    model, spec = small_network("plain")
    write_run(folder, model, spec, configure("digits", "digits", {}))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images of each color, and a blue one among the red."""
    for name, color in COLORS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (20 + number, 20), color).save(tmp_path / "photos" / name / f"{number}.png")
    Image.new("RGB", (40, 20), "blue").save(tmp_path / "photos" / "red" / "blue.png")
    return tmp_path / "photos"


@pytest.fixture
def color_file(tmp_path: Path) -> tuple[str, ...]:
    """A file whose largest output is the color, as it gives the channels' means: red, lime, blue."""
    path = channel_means(tmp_path / "colors.onnx", TensorProto.FLOAT)
    (tmp_path / "labels.txt").write_text("red\nlime\nblue\n")
    scale = ("--mean", "0,0,0", "--std", "0.1,0.1,0.1")
    return (str(path), *scale, "--image-size", "16", "--labels", str(tmp_path / "labels.txt"))


def test_a_run_is_evaluated_on_its_held_out_images_with_the_figures_of_scikit_learn(resx: Resx, run: Path) -> None:
    model, spec = small_network("resnet")
    images = load_data("digits", image_size=8).held_out
    predicted = logits(model, spec, images.images).argmax(1).numpy()
    expected = metrics.classification_report(
        images.targets, predicted, target_names=list(spec.labels), output_dict=True, zero_division=0
    )

    done = resx("evaluate", run, "--json")

    assert done.code == 0, done.err
    found = done.json
    assert found["images"] == {
        "data": "digits",
        "part": "held-out",
        "origin": "355 held-out images of digits",
        "num_images": 355,
        "num_skipped": 0,
    }
    assert found["top1"]["share"] == expected["accuracy"]
    assert np.array_equal(found["confusion"], metrics.confusion_matrix(images.targets, predicted))
    for one in found["classes"]:
        row = expected[one["label"]]
        assert (one["precision"] or {"share": 0.0})["share"] == row["precision"]
        assert one["recall"]["share"] == row["recall"]
        assert one["f1"] == row["f1-score"]
        assert one["support"] == row["support"]
    for name, row in (("macro", expected["macro avg"]), ("weighted", expected["weighted avg"])):
        assert list(found[name].values()) == [row["precision"], row["recall"], row["f1-score"]]
    assert "✓ Evaluated " in done.err


def test_a_table_says_which_images_were_used_with_intervals_at_80_columns(resx: Resx, run: Path) -> None:
    done = resx("evaluate", run, env={"COLUMNS": "80"})

    assert done.code == 0, done.err
    assert "355 held-out images of digits" in done.out
    assert "15 bins" in done.out
    assert "Confusion matrix" in done.out
    assert max(len(line) for line in done.out.splitlines() if "held-out" not in line) <= 80


def test_a_file_whose_classes_have_another_order_is_matched_by_name(
    resx: Resx, photos: Path, color_file: tuple[str, ...], tmp_path: Path
) -> None:
    done = resx("evaluate", *color_file, "--data", f"folder:{photos}", *WHOLE, "--json", "-o", tmp_path / "r.html")

    assert done.code == 0, done.err
    found = done.json
    assert (found["top1"]["right"], found["top1"]["of"], found["top5"]) == (18, 19, None)
    assert found["classes_matched_by"] == "name"
    assert [one["label"] for one in found["classes"]] == ["blue", "lime", "red"]
    assert found["confusion"] == [[6, 0, 0], [0, 6, 0], [1, 0, 6]]
    assert found["most_confused"] == [{"label": "red", "answered": "blue", "num_images": 1, "share": 1 / 7}]
    page = read_page((tmp_path / "r.html").read_text())
    (image,) = page.all("img")
    assert image.attributes["alt"].startswith("red/blue.png: ")
    assert list(tmp_path.glob(".resx*")) == []


def test_two_models_are_compared_image_by_image(resx: Resx, run: Path, other_run: Path, tmp_path: Path) -> None:
    done = resx("evaluate", run, "--against", other_run, "--json", "-o", tmp_path / "r.html")
    shown = resx("evaluate", run, "--against", other_run)

    assert done.code == 0, done.err
    found, paired = done.json, done.json["comparison"]
    assert found["against"]["top1"]["right"] - found["top1"]["right"] == (
        paired["only_second_right"] - paired["only_first_right"]
    )
    assert paired["num_flips"] == len(paired["flips"]) > 0
    assert {flip["image"].split("/")[0] for flip in paired["flips"]} == {"held-out"}
    assert 0 <= paired["p_value"] <= 1
    assert len(list(read_page((tmp_path / "r.html").read_text()).one("paired").all("img"))) == min(
        24, len(paired["flips"])
    )
    assert "McNemar's exact test" in shown.out


def test_a_file_of_one_batch_size_gives_the_answers_of_one_of_any(resx: Resx, tmp_path: Path) -> None:
    fixed, free = (
        saved(network(shape=(batch, 3, 8, 8), classes=10, scale=1.0), tmp_path, name)
        for batch, name in ((4, "fixed"), ("n", "free"))
    )

    done = resx("evaluate", fixed, "--against", free, "--data", "digits", "--json")

    assert done.code == 0, done.err
    assert done.json["images"]["num_images"] % 4 == 3
    assert done.json["comparison"]["num_flips"] == 0
    assert done.json["confusion"] == done.json["against"]["confusion"]
    assert done.json["classes_matched_by"] == "position"


def test_a_variant_of_random_weights_is_evaluated_and_said_to_mean_nothing(resx: Resx) -> None:
    done = resx("evaluate", "resnet20", "--data", "digits", "--json")

    assert (done.code, done.json["kind"], done.json["random_weights"]) == (0, "variant", True), done.err
    assert "random weights" in done.err
    assert done.json["calibration"]["error"] > 0


@pytest.mark.triton
def test_a_served_model_gives_the_figures_of_its_version(resx: Resx, triton: RunningTriton) -> None:
    here = resx("evaluate", "tiny", "--data", "digits", "--repository", triton.repository.root, "--json")
    there = resx("evaluate", "tiny:1", "--data", "digits", "--url", triton.url(), "--json")
    floats = resx(
        "evaluate",
        "tiny_float",
        "--against",
        "tiny",
        "--data",
        "digits",
        "--repository",
        triton.repository.root,
        "--json",
    )

    assert (here.code, there.code, floats.code) == (0, 0, 0), here.err + there.err + floats.err
    assert (here.json["kind"], there.json["kind"]) == ("version", "served")
    assert there.json["confusion"] == here.json["confusion"]
    assert there.json["top5"] == here.json["top5"]
    assert floats.json["comparison"]["num_flips"] == 0
    refused(resx("evaluate", "tinny", "--data", "digits", "--url", triton.url()), 2, "tinny")


def test_no_server_is_a_missing_capability(resx: Resx) -> None:
    refused(resx("evaluate", "m", "--data", "digits", "--url", "127.0.0.1:1", "--retries", "0"), 4, "127.0.0.1:1")


def test_what_cannot_be_evaluated_is_refused_in_one_line(resx: Resx, run: Path, tmp_path: Path) -> None:
    one = saved(network(classes=1, shape=("n", 3, 8, 8)), tmp_path, "one")
    vector = saved(network(classes=10, shape=("n", 6)), tmp_path, "vector")
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    digits = ("--data", "digits")
    cases = [
        (("", *digits), "THING is empty"),
        (("nothing", *digits), "no run, .onnx file, variant or model"),
        (("tyni", *digits), "did you mean tiny"),
        (("tiny:7", *digits), "7"),
        (("runs/none", *digits), "not a run"),
        (("none.onnx", *digits), "no such file"),
        (("model.plan", *digits), "TensorRT engine"),
        (("tiny",), "--data is missing"),
        (("resnet20", "--data", "digit"), "did you mean digits"),
        (("resnet50", *digits), "has 10 classes and resnet50 1000 outputs"),
        ((one, *digits), "one number per image"),
        ((vector, *digits), "not RGB images"),
        ((run, "--part", "test"), "held-out, train, all"),
        ((run, "--weights", "imagenet"), "has its own weights"),
        ((run, "-o", "page.json"), "ends in .html"),
        ((run, "-o", "none/page.html"), "no such folder"),
        ((run, "--against", "nothing"), "no run, .onnx file, variant or model"),
    ]
    for arguments, words in cases:
        refused(resx("evaluate", *arguments), 2, words)


def test_bad_folders_are_refused_in_one_line(
    resx: Resx, photos: Path, color_file: tuple[str, ...], tmp_path: Path
) -> None:
    def evaluate(data: Path, *options: str) -> None:
        return resx("evaluate", *color_file, "--data", f"folder:{data}", *WHOLE, *options)

    refused(evaluate(tmp_path / "none"), 2, "no such folder")
    (photos / "green").mkdir()
    refused(evaluate(photos), 2, "class 'green' has no image")
    Image.new("RGB", (8, 8), "lime").save(photos / "green" / "a.png")
    refused(evaluate(photos), 2, "'green' is in the data only")
    (photos / "green" / "a.png").unlink()
    (photos / "green").rmdir()
    (photos / "lime").rename(photos / "green")
    refused(evaluate(photos), 2, "'green' is in the data only, 'lime' is in the model only", "--by-position")
    assert evaluate(photos, "--by-position", "--json").json["classes_matched_by"] == "position"
    (photos / "green").rename(photos / "lime")
    (photos / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    refused(evaluate(photos), 2, "1 of 20 images cannot be read", "--skip-bad")
    done = evaluate(photos, "--skip-bad", "--json")
    assert (done.code, done.json["images"]["num_skipped"], done.json["top1"]["of"]) == (0, 1, 19)


def test_one_image_a_class_is_enough(resx: Resx, color_file: tuple[str, ...], tmp_path: Path) -> None:
    for name, color in COLORS.items():
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), color).save(tmp_path / "few" / name / "a.png")
    data = ("--data", f"folder:{tmp_path / 'few'}")

    done = resx("evaluate", *color_file, *data, *WHOLE, "--json")

    assert (done.code, done.json["top1"]["share"]) == (0, 1.0), done.err
    assert done.json["top1"]["low"] == pytest.approx(0.4385, abs=1e-4)
    refused(resx("evaluate", *color_file, *data), 2, "too few images for a held-out part")


def test_a_model_that_answers_nan_fails_and_names_the_image(resx: Resx, tmp_path: Path) -> None:
    model = network(classes=10, shape=("n", 3, 8, 8))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[:] = np.nan
    weight.raw_data = values.tobytes()
    path = saved(model, tmp_path, "broken")

    refused(resx("evaluate", path, "--data", "digits"), 1, "355 of 355 answers are not finite", "held-out/0")


def test_a_run_whose_data_changed_is_evaluated_with_a_warning(resx: Resx, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in run.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    from resx.files.fingerprint import fingerprint_of_content
    from resx.training.runs.checkpoint import DATA

    (folder / DATA).write_bytes(fingerprint_of_content("digits", (b"others",)).packed)

    changed, same, seen = resx("evaluate", folder), resx("evaluate", run), resx("evaluate", run, "--part", "train")

    assert (changed.code, same.code, seen.code) == (0, 0, 0)
    assert "1,442 training images of digits" in seen.out
    assert "was trained on these images" in seen.err
    assert "warning: digits changed since" in changed.err
    assert "warning" not in same.err


def test_an_interrupt_leaves_no_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resx", "evaluate", "resnet110", "--data", "digits", "--part", "all"]
    with subprocess.Popen([*command, "-o", "page.html"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "Loaded the images" in line)  # the model is asked next
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=600)

    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_json_holds_no_number_that_json_has_not(resx: Resx, run: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(resx("evaluate", run, "--json").out, parse_constant=refuse)
