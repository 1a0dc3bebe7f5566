"""`resx runs`: a table that fits, a picture of all curves, and all that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_json_schema import require_described
from tests.support.command import Resx, refused
from tests.training.runs.test_run_listing import epoch, made


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made(tmp_path / "runs" / "old", epoch(1, 0.5), epoch(2, 0.9), date=1_700_000_000)
    made(tmp_path / "runs" / "new", epoch(1, 0.7), date=1_700_000_100)
    broken = made(tmp_path / "runs" / "broken", epoch(1, 0.7))
    (broken / "spec.json").write_text("{}")
    return tmp_path / "runs"


@pytest.mark.usefixtures("runs")
def test_runs_are_listed_with_the_broken_ones_and_the_best_ones_export(resx: Resx) -> None:
    done = resx("runs")

    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[0] for line in lines if line and line[0].startswith("runs/")] == ["runs/new", "runs/old"]
    assert "90.00" in next(line for line in done.out.splitlines() if line.startswith("runs/old"))
    assert "2 of 15" in done.out
    assert "✗ runs/broken/spec.json: " in done.out
    assert done.out.endswith("Next: resx export runs/old\n")


@pytest.mark.usefixtures("runs")
def test_the_table_fits_80_columns(resx: Resx) -> None:
    done = resx("runs", "--sort", "accuracy", env={"COLUMNS": "80"})

    rows = [line for line in done.out.splitlines() if line.startswith("runs/")]
    assert [row.split()[0] for row in rows] == ["runs/old", "runs/new"]
    assert max(map(len, rows)) <= 80


@pytest.mark.usefixtures("runs")
def test_json_is_what_is_described(resx: Resx) -> None:
    found = require_described(resx("runs", "--json"), "runs")

    assert found["best"] == "runs/old"
    assert [one["folder"] for one in found["broken"]] == ["runs/broken"]


@pytest.mark.usefixtures("runs")
def test_a_picture_has_the_curves_of_all(resx: Resx, tmp_path: Path) -> None:
    for name in ("curves.svg", "curves.png"):
        done = resx("runs", "--plot", name)
        assert done.code == 0, done.err
        assert f"wrote {name}" in done.out
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 1000
    text = (tmp_path / "curves.svg").read_text()
    assert "<!-- runs/old -->" in text
    assert "<!-- runs/new -->" in text


def test_what_cannot_be_listed_or_drawn_is_refused(resx: Resx, runs: Path, tmp_path: Path) -> None:
    refused(resx("runs", "nowhere"), 2, "nowhere", "no such folder")
    refused(resx("runs", "--sort", "size"), 2, "--sort size", "accuracy")
    refused(resx("runs", "--plot", "a.txt"), 2, "a.txt", ".svg")
    made(tmp_path / "begun")
    refused(resx("runs", "begun", "--plot", "a.png"), 2, "finished an epoch")
    assert not (tmp_path / "a.png").exists()
    (tmp_path / "empty").mkdir()
    done = resx("runs", "empty")
    assert (done.code, done.out) == (0, "empty: no runs\n")
    assert runs.is_dir()
