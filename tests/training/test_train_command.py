"""`resx train` as a process: exit codes, what goes to which stream, interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resx.cli.main import main

SMALL = ["resnet20", "--image-size", "8", "--batch-size", "64"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # small tensors: two threads would only wait for each other
TRAIN = [sys.executable, "-m", "resx", "train"]


def resx_train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRAIN, *arguments], capture_output=True, text=True, timeout=600, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("runs") / "one"
    return folder, resx_train(*SMALL, "--epochs", "1", "-o", str(folder), "--json")


def test_json_gives_one_object_on_stdout_and_progress_on_stderr(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finished

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    result = json.loads(done.stdout)
    assert result["run"] == str(folder)
    assert result["epoch"] == 1
    assert result["num_held_out"] == 355
    assert 0 <= result["accuracy"] <= 1
    assert (result["precision"], result["num_processes"]) == ("fp32", 1)
    assert "Training on " in done.stderr
    assert "epoch 1/1" in done.stderr


Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run `resx train` here; give its exit code and the one line it says, with nothing on stdout."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["resx", "train", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert isinstance(ended.value.code, int)
        return ended.value.code, err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet20"], "contains a run; --resume continues it, --force deletes it"),
        (["resnet20", "--resume", "--force"], "--resume and --force: give one of them"),
        ([*SMALL, "--resume", "--epochs", "2"], "started with other settings: epochs was 1, is 2"),
        (["resnet32", *SMALL[1:], "--resume", "--epochs", "1"], "another network: name was resnet20, is resnet32"),
        (["resnet21"], "no model named 'resnet21'; did you mean"),
        (["resnet20", "--data", "digit"], "did you mean digits"),
        (["resnet20", "--survival", "0"], "survival=0.0: give a probability in (0, 1]"),
        (["resnet20", "--epochs", "0"], "--epochs"),
        (["resnet20", "--recipe", "he2015"], "did you mean he2015-cifar"),
        (["resnet20", "--precision", "fp8"], "--precision fp8: give one of auto, fp32, bf16, fp16"),
        (["resnet20", "--device", "cuda"], "--device cuda: give one of auto, cpu, gpu"),
        ([*SMALL, "--resume", "--epochs", "1", "--precision", "fp16"], "precision was fp32, is fp16"),
        (["resnet20", "--image-size", "7"], "--image-size"),
        (["resnet20", "--data", "folder:/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    finished: tuple[Path, subprocess.CompletedProcess[str]], refused: Refused, arguments: list[str], message: str
) -> None:
    folder, _ = finished
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    code, said = refused(*arguments, "-o", str(folder))

    assert code == 2
    assert message in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        pytest.param(
            ["--device", "gpu"],
            "--device cpu trains on the CPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_is_missing_here_is_exit_code_4_with_the_remedy_and_the_old_run_stays(
    tmp_path: Path, refused: Refused, arguments: list[str], remedy: str
) -> None:
    (tmp_path / "spec.json").write_text("{}")

    code, said = refused("resnet20", "-o", str(tmp_path), "--force", *arguments)

    assert code == 4
    assert remedy in said
    assert (tmp_path / "spec.json").exists()


def test_a_folder_with_a_bad_image_is_refused_and_trained_on_without_it(tmp_path: Path, refused: Refused) -> None:
    for shade, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (12, 12), 200 * shade + index).save(tmp_path / "images" / name / f"{index}.png")
    (tmp_path / "images" / "dog" / "2.png").write_bytes(b"no image")
    arguments = [*SMALL[:3], "--data", f"folder:{tmp_path / 'images'}", "--epochs", "1", "--batch-size", "4"]

    code, said = refused(*arguments, "-o", str(tmp_path / "run"))
    assert code == 2
    assert "1 of 12 images cannot be read (dog/2.png)" in said
    assert not (tmp_path / "run").exists()

    done = resx_train(*arguments, "-o", str(tmp_path / "run"), "--skip-bad", "--json")
    assert done.returncode == 0, done.stderr
    assert "Skipped 1 image that cannot be read" in done.stderr
    result = json.loads(done.stdout)
    assert (result["num_skipped"], result["num_held_out"], result["recipe"]) == (1, 2, "small-data")


def test_a_class_that_skipping_empties_ends_in_one_line_and_leaves_no_folder(tmp_path: Path, refused: Refused) -> None:
    images = tmp_path / "images"
    for shade, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (images / name).mkdir(parents=True)
        for index in range(1 + 2 * (shade > 1)):
            Image.new("L", (40, 40), 50 * shade + index).save(images / name / f"{index}.png")
    broken = images / "train" / "b" / "0.png"
    broken.write_bytes(broken.read_bytes()[:50])
    arguments = ["resnet18", "--data", f"folder:{images}", "--image-size", "32", "--epochs", "1", "--skip-bad"]

    code, said = refused(*arguments, "-o", str(tmp_path / "run"))

    assert code == 2
    assert "class 'b': none of its images can be read (the first, train/b/0.png: truncated PNG file" in said
    assert not (tmp_path / "run").exists()


def test_what_was_skipped_and_what_is_not_held_out_is_in_json_and_on_stderr(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for shade, name in enumerate(("a", "b", "c")):
        (images / "Training" / name).mkdir(parents=True)
        for index in range(6 if name != "c" else 3):
            Image.new("L", (12, 12), 60 * shade + index).save(images / "Training" / name / f"{index}.png")
    (images / "Training" / "a" / "x.heic").write_bytes(b"x")
    (images / "readme.txt").write_text("x")

    done = resx_train(
        *SMALL[:3],
        "--data",
        f"folder:{images}",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "-o",
        str(tmp_path / "run"),
        "--json",
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["skipped_files"] == {".heic": 1, ".txt": 1}
    assert result["classes_not_held_out"] == ["c"]
    assert result["checksum"] is None
    for remark in result["remarks"]:
        assert remark in done.stderr
    assert result["remarks"][0] == "No val/ beside Training/: every fifth image of each class is held out"
    assert "1 .heic file: convert it to JPEG or PNG" in result["remarks"][1]


def test_force_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "old.txt").write_text("of the old run")

    done = resx_train(*SMALL, "--epochs", "1", "-o", str(tmp_path), "--force", "-q")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not (tmp_path / "old.txt").exists()
    assert (tmp_path / "model.safetensors").is_file()


def test_a_folder_of_something_else_is_left_alone_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    done = resx_train("resnet20", "-o", str(tmp_path), "--force")

    assert done.returncode == 2
    assert "contains other files" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    done = resx_train("resnet20", "-o", str(tmp_path / "none"), "--resume")

    assert done.returncode == 2
    assert "no run to resume" in done.stderr


def test_an_interrupt_ends_with_130_and_the_run_resumes(tmp_path: Path) -> None:
    arguments = [*SMALL, "--epochs", "3", "-o", str(tmp_path / "run")]
    with subprocess.Popen([*TRAIN, *arguments], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "epoch 1/3" in line)
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert process.returncode == 130, said
    assert "continue with --resume" in said
    assert "Traceback" not in said

    done = resx_train(*arguments, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epoch"] == 3
    assert not list((tmp_path / "run").glob(".staging-*"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ten images in train/ and five in val/."""
    noise, root = np.random.default_rng(0), tmp_path / "data"
    for part, count in (("train", 10), ("val", 5)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                image.save(root / part / name / f"{number:02}.png")
    return root


def remove_one(root: Path) -> None:
    (root / "val" / "a" / "00.png").unlink()


def add_one(root: Path) -> None:
    shutil.copy(root / "train" / "b" / "00.png", root / "train" / "b" / "new.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove_one, "1 file removed (val/a/00.png)"),
        (add_one, "1 file added (train/b/new.png)"),
    ],
)
def test_a_run_is_not_gone_on_with_on_other_data(pictures: Path, tmp_path: Path, change: object, words: str) -> None:
    arguments = [
        "resnet20", "--data", f"folder:{pictures}", "--image-size", "16", "--epochs", "1", "--batch-size", "4", "-o",
        str(tmp_path / "run"),
    ]  # fmt: skip
    assert resx_train(*arguments).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert callable(change)
    change(pictures)

    done = resx_train(*arguments, "--resume")

    assert done.returncode == 2
    assert (
        f"its data changed since the run started: {words}; restore the data, or train again with --force" in done.stderr
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_other_times_of_the_data_can_be_ignored_and_an_older_run_is_said(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        "resnet20", "--data", f"folder:{pictures}", "--image-size", "16", "--epochs", "1", "--batch-size", "4", "-o",
        str(run),
    ]  # fmt: skip
    assert resx_train(*arguments).returncode == 0
    os.utime(pictures / "train" / "a" / "03.png", ns=(0, 1))

    refused, ignored = resx_train(*arguments, "--resume"), resx_train(*arguments, "--resume", "--ignore-times")
    (run / "data.jsonl.gz").unlink()
    old = resx_train(*arguments, "--resume")

    assert refused.returncode == 2
    assert "1 file with another modification time (train/a/03.png)" in refused.stderr
    assert "--ignore-times" in refused.stderr
    assert ignored.returncode == 0, ignored.stderr
    assert (old.returncode, "started by an older resx" in old.stderr) == (0, True)
