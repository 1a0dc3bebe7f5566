"""One run has one folder, and one folder one run: locks, replaced folders, mixed files, what a kill leaves."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.cli.main import main
from resx.data.dataset import DataSet
from resx.errors import ResxError, UsageError
from resx.training.config import TrainingConfig
from resx.training.loop import OnEpoch, TrainingRun, train
from resx.training.runs import checkpoint, run_origin
from resx.training.runs.checkpoint import Metrics
from resx.training.runs.run_folder import claim
from resx.zoo.spec import ModelSpec
from resx.zoo.weights.pretrained import read_weights

Begin = Callable[..., Path]
SMALL = ["resnet20", "--image-size", "8", "--epochs", "1"]


@pytest.fixture
def begin(small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path) -> Begin:
    """Train the small network into a folder of that name; give the folder."""

    def begin(
        name: str = "run",
        *,
        resume: bool = False,
        extend: bool = False,
        on_epoch: OnEpoch = lambda _entry: None,
        **changes: object,
    ) -> Path:
        wanted = config.model_copy(update={"epochs": 2} | changes)
        train(
            TrainingRun(
                spec=small_spec, data=small_data, config=wanted, folder=tmp_path / name, resume=resume, extend=extend
            ),
            on_epoch=on_epoch,
        )
        return tmp_path / name

    return begin


def after(epoch: int, action: Callable[[], object]) -> OnEpoch:
    def on_epoch(entry: Metrics) -> None:
        if entry["epoch"] == epoch:
            action()

    return on_epoch


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resx_train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["resx", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("options", [[], ["--force"], ["--resume"], ["--resume", "--extend"]])
def test_nobody_else_trains_in_the_folder_of_a_live_run(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    run = begin()
    before = contents(run)

    with claim(run, resume=True, force=False):
        code = resx_train(monkeypatch, *SMALL, "-o", str(run), *options)

    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert f"process {os.getpid()} is training in it; wait until it ends, or choose another -o" in err
    assert contents(run) == before


def test_a_run_that_has_just_begun_is_live_too(
    tmp_path: Path, small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig
) -> None:
    with (
        claim(tmp_path / "run", resume=False, force=False),
        pytest.raises(UsageError, match="is training in it"),
    ):
        train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "run"))
    assert not (tmp_path / "run").exists()  # nothing was begun


def replace_by_another_run(run: Path) -> None:
    run.rename(run.with_name("moved"))
    shutil.copytree(run.with_name("moved"), run)


def empty_and_make_again(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shutil.rmtree, "was moved or deleted"),
        (lambda run: run.rename(run.with_name("moved")), "was moved or deleted"),
        (empty_and_make_again, "was replaced by another folder"),
        (replace_by_another_run, "was replaced by another folder"),
        (
            lambda run: (run / "training.json").write_text(TrainingConfig(data="digits", seed=8).model_dump_json()),
            "seed was 7, is 8",
        ),
        (lambda run: (run / "spec.json").unlink(), "spec.json"),
    ],
)
def test_a_run_whose_folder_is_no_longer_its_own_ends_with_one_line_and_writes_nothing(
    begin: Begin, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    run, left = tmp_path / "run", []

    def replace() -> None:
        change(run)
        left.append(contents(tmp_path))

    with pytest.raises(ResxError, match=words) as caught:
        begin(on_epoch=after(1, replace))

    assert caught.value.exit_code == 1
    assert "nothing more is written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [contents(tmp_path)] == left


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("training.json", {"seed": 8}, "training.seed was 7, is 8"),
        ("model.safetensors", {"learning_rate": 0.01}, "training.learning_rate was 0.01, is 0.05"),
        ("spec.json", {}, "spec.survival was 0.5, is 0.8"),
    ],
)
def test_files_of_two_runs_are_not_taken_for_one(
    begin: Begin,
    small_spec: ModelSpec,
    config: TrainingConfig,
    tmp_path: Path,
    file: str,
    changes: dict[str, object],
    words: str,
) -> None:
    run = begin()
    other = begin("other", **changes)
    if file == "spec.json":
        checkpoint.begin_run(other, small_spec.with_changes(survival=0.8), config)
    shutil.copy(other / file, run / file)

    with pytest.raises(UsageError, match=r"model\.safetensors: belongs to a different run than") as caught:
        checkpoint.load_run(run)
    assert words in str(caught.value)


def test_what_goes_on_with_the_weights_of_another_run_is_refused(begin: Begin) -> None:
    run, other = begin(), begin("other", seed=8)
    shutil.copy(other / checkpoint.RESUME, run / checkpoint.RESUME)

    with pytest.raises(UsageError, match=r"resume\.safetensors: belongs to a different run"):
        begin(resume=True)


def test_best_weights_in_the_place_of_the_last_and_other_labels_are_still_the_same_run(begin: Begin) -> None:
    run = begin()
    shutil.copy(run / checkpoint.BEST, run / checkpoint.WEIGHTS)
    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps(spec | {"labels": [f"number {label}" for label in range(10)]}))

    _, found = checkpoint.load_run(run)

    assert found.labels[3] == "number 3"


def test_a_run_that_begins_while_another_is_read_is_not_mixed_with_it(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = begin(), begin("other", seed=8)

    def read_meanwhile(path: Path) -> object:
        found = read_weights(path)
        for file in other.iterdir():
            shutil.copy(file, run / file.name)
        return found

    monkeypatch.setattr(checkpoint, "read_weights", read_meanwhile)

    with pytest.raises(UsageError, match="belongs to a different run"):
        checkpoint.load_run(run)


@pytest.mark.parametrize(
    "left",
    [
        [".staging-999999-x"],
        [".staging-999999-a1b2", ".staging-999998-c3d4"],
        [f".staging-{os.getpid()}-a1b2"],  # the number went to another process meanwhile
        ["training.json", ".staging-999999-a1b2"],
    ],
)
def test_what_a_killed_first_write_left_is_no_obstacle_and_goes(begin: Begin, tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        text = TrainingConfig(data="digits").model_dump_json() if name == "training.json" else "half a file"
        (tmp_path / "run" / name).write_text(text)

    run = begin()

    assert not list(run.glob(".staging-*"))
    assert checkpoint.read_config(run).seed == 7


@pytest.mark.parametrize("name", ["thesis.txt", ".staging-notes", "training.json", ".staging-9-x.tar"])
def test_a_folder_of_something_else_is_left_alone_with_what_looks_staged(
    begin: Begin, tmp_path: Path, name: str
) -> None:
    (tmp_path / "run").mkdir()
    for file in (name, ".staging-999999-x"):
        (tmp_path / "run" / file).write_text("years of work")
    before = contents(tmp_path)

    with pytest.raises(UsageError, match="contains other files") as caught:
        begin()

    assert name in str(caught.value)
    assert contents(tmp_path) == before


# The first write is staged, renamed and its folder synced; the same again for the second.
@pytest.mark.parametrize("sync", [1, 3])
def test_a_run_killed_in_its_first_writes_begins_again_without_a_word(
    begin: Begin, small_spec: ModelSpec, config: TrainingConfig, tmp_path: Path, sync: int
) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from resx.training.runs import checkpoint\n"
        "from resx.training.runs.run_origin import Origin\n"
        "left = [None] * int(sys.argv[3])\n"
        "def fsync(_descriptor):\n"
        "    left.pop()\n"
        "    if not left: os.kill(os.getpid(), 9)\n"
        "os.fsync = fsync\n"
        "origin = Origin.model_validate_json(sys.argv[2])\n"
        "checkpoint.begin_run(Path(sys.argv[1]), origin.spec, origin.training)\n"
    )
    origin = run_origin.Origin(spec=small_spec, training=config).model_dump_json()
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), origin, str(sync)], check=False)
    assert killed.returncode == -9
    assert list((tmp_path / "run").glob(".staging-*"))

    run = begin()

    assert contents(run).keys() == contents(begin("another")).keys()


def test_a_checkpoint_that_a_kill_left_staged_goes_when_the_run_goes_on(begin: Begin) -> None:
    run = begin()
    (run / ".staging-999999-0a1b2c3d").write_bytes(b"x" * 10_000)

    begin(resume=True)

    assert not list(run.glob(".staging-*"))


def test_a_full_disk_at_a_checkpoint_names_the_file_and_the_epoch_that_is_kept(begin: Begin) -> None:
    whole = begin("whole")
    largest = (whole / checkpoint.WEIGHTS).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            ResxError, match=r"resume\.safetensors: file too large; epoch 1 is kept: free some space"
        ) as said:
            begin(on_epoch=after(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert said.value.exit_code == 1
    assert "--resume" in str(said.value)
    run = begin(resume=True)
    assert contents(run).keys() == contents(whole).keys()
    assert read_weights(run / checkpoint.WEIGHTS)["fc.bias"].equal(read_weights(whole / checkpoint.WEIGHTS)["fc.bias"])


@pytest.mark.parametrize(
    ("file", "kept"), [(checkpoint.RESUME, "epoch 1"), (checkpoint.WEIGHTS, "epoch 2"), (checkpoint.METRICS, "epoch 2")]
)
def test_a_file_that_cannot_be_written_says_what_is_kept(begin: Begin, tmp_path: Path, file: str, kept: str) -> None:
    def obstruct() -> None:
        (tmp_path / "run" / file).rename(tmp_path / "aside")
        (tmp_path / "run" / file).mkdir()

    with pytest.raises(ResxError, match=rf"{file}: is a directory; {kept} is kept"):
        begin(on_epoch=after(1, obstruct))
    (tmp_path / "run" / file).rmdir()
    (tmp_path / "aside").rename(tmp_path / "run" / file)

    assert begin(resume=True)


def test_a_disk_that_is_full_before_the_first_epoch_says_so(begin: Begin, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(ResxError, match=r"resume\.safetensors: file too large; no epoch is finished yet"):
            begin()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert not list((tmp_path / "run").glob(".staging-*"))
    assert begin(resume=True)
