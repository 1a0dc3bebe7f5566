"""Runs of a folder as they are listed: in which order, which is best, which cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from resx.errors import UsageError
from resx.training.recipes import configure
from resx.training.runs.run_listing import ORDERS, list_runs
from tests.support.small_networks import small_spec


def made(folder: Path, *epochs: dict[str, Any], data: str = "digits", date: int = 1_700_000_000) -> Path:
    """Write a run of 15 epochs of which these are finished."""
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(small_spec("resnet").model_dump_json())
    (folder / "training.json").write_text(configure(data, "digits", {"batch_size": 10}).model_dump_json())
    if epochs:
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in epochs))
        (folder / "model.safetensors").write_bytes(b"weights")
    for path in folder.iterdir():
        os.utime(path, (date, date))
    return folder


def epoch(number: int, accuracy: float, **more: float) -> dict[str, Any]:
    return {"epoch": number, "step": 20 * number, "loss": 1 / number, "accuracy": accuracy, "images_per_s": 50.0} | more


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    made(folder / "old", epoch(1, 0.5), epoch(2, 0.9), epoch(3, 0.9), date=1_700_000_000)
    made(folder / "new", epoch(1, 0.95, images_per_s=1000.0), date=1_700_000_100)
    made(folder / "begun", data="mnist5k", date=1_700_000_050)
    (folder / "notes").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "readme.txt").write_text("no run")
    return folder


def test_a_run_says_how_far_it_came(runs: Path) -> None:
    found = list_runs(runs, "name")

    assert [Path(run.folder).name for run in found.runs] == ["begun", "new", "old"]
    begun, _, old = found.runs
    assert (begun.epochs_done, begun.best_accuracy, begun.best_epoch, begun.training_s) == (0, None, None, None)
    assert (old.epochs_done, old.epochs, old.best_accuracy, old.best_epoch) == (3, 15, 0.9, 2)
    assert old.training_s == 3 * 20 * 10 / 50
    assert old.date == "2023-11-14T22:13:20+00:00"
    assert len(found.epochs[old.folder]) == 3
    assert not found.broken


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("date", ["new", "begun", "old"]),
        ("accuracy", ["new", "old", "begun"]),
        ("epochs", ["old", "new", "begun"]),
        ("time", ["new", "old", "begun"]),
        ("data", ["new", "old", "begun"]),
        ("model", ["new", "begun", "old"]),
    ],
)
def test_runs_come_in_the_order_that_is_asked_for(runs: Path, order: Any, names: list[str]) -> None:
    assert order in ORDERS
    assert [Path(run.folder).name for run in list_runs(runs, order).runs] == names


def test_the_best_epoch_is_chosen_on_validation_images_where_there_are_any(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", epoch(1, 0.8, validation_accuracy=0.9), epoch(2, 0.9, validation_accuracy=0.7))

    (run,) = list_runs(folder, "date").runs

    assert (run.best_epoch, run.best_accuracy, run.best_chosen_on) == (1, 0.8, "validation")


def test_the_best_run_is_the_most_accurate_and_of_equals_the_newest(runs: Path) -> None:
    made(runs / "again", epoch(1, 0.95), date=1_700_000_200)
    found = list_runs(runs, "date")
    assert found.best is not None
    assert Path(found.best.folder).name == "again"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("spec.json", None, "spec.json"),
        ("spec.json", "{}", "spec.json"),
        ("training.json", None, "training.json"),
        ("training.json", "[1]", "training.json"),
        ("metrics.jsonl", "no json\n", "a line that resx did not write"),
        ("metrics.jsonl", '{"epoch": 1, "step": 1, "loss": 1.0}\n', "accuracy: field required"),
        ("metrics.jsonl", '{"epoch": 1, "step": 1, "loss": NaN, "accuracy": 0.5}\n', "loss"),
        ("model.safetensors", None, "model.safetensors: no such file"),
    ],
)
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_listed(
    runs: Path, file: str, content: str | None, words: str
) -> None:
    path = runs / "old" / file
    path.unlink() if content is None else path.write_text(content)

    found = list_runs(runs, "date")

    assert [Path(run.folder).name for run in found.runs] == ["new", "begun"]
    (broken,) = found.broken
    assert broken.folder == str(runs / "old")
    assert words in broken.reason


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="resx train -o"):
        list_runs(tmp_path / name, "date")
