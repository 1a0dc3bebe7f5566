"""The files that `resx predict` writes: the same rows in every format, and a CSV without formulas."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from resx.repository.versions import Repository
from resx.scoring.output import without_formula
from tests.support.predict_command import Resx, predicted
from tests.support.tiny_models import publish_tiny

SUSPECT = ("=1+1", "-5", "+5", "@SUM(A1)", " =1", '"=1', "a;=1+1", "fine")


def test_the_formats_hold_the_same_rows(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        predicted(resx, published, images, tmp_path / f"out.{suffix}", "--top", "2")

    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    for row, line, cell in zip(rows, lines, cells, strict=True):
        assert np.float32(line.pop("probabilities")).tolist() == row["probabilities"]
        assert line == {key: value for key, value in row.items() if key != "probabilities"}
        assert (cell["path"], cell["error"]) == (row["path"], row["error"] or "")
        assert [cell["class_1"], cell["class_2"]] == (list(map(str, row["classes"])) or ["", ""])
        assert [float(np.float32(cell[f"probability_{place}"])) for place in (1, 2) if not row["error"]] == row[
            "probabilities"
        ]


@pytest.fixture
def formulas(tmp_path: Path) -> Repository:
    """A model whose classes are called like formulas, and `photos` that are, too."""
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny", classes=len(SUSPECT))
    (repository.root / "tiny" / "labels.txt").write_text("".join(f"{label}\n" for label in SUSPECT))
    names = ("=1+1.png", "-1.png", "+1.png", "@a.png", "\t=1.png", "\r=1.png", "a,=1.png", "a\n@b.png", "\uff1d1.png")
    for number, name in enumerate((*names, "fine-1.png")):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / name)
    (tmp_path / "-broken.png").write_bytes(b"")
    return repository


def cells_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def test_a_safe_csv_has_no_formula_in_it_and_its_numbers_are_numbers(
    resx: Resx, formulas: Repository, tmp_path: Path
) -> None:
    top = str(len(SUSPECT))
    predicted(resx, formulas, "*.png", tmp_path / "plain.csv", "--top", top)
    predicted(resx, formulas, "*.png", tmp_path / "safe.csv", "--top", top, "--csv-safe")

    plain, safe = cells_of(tmp_path / "plain.csv"), cells_of(tmp_path / "safe.csv")
    assert {label for row in plain[1:] for label in row[2:-1:3] if label} == set(SUSPECT)
    assert "-1.png" in {row[0] for row in plain}
    assert len(plain) == len(safe) == 12
    assert plain[0] == safe[0]
    for before, after in zip(plain[1:], safe[1:], strict=True):
        assert before[1::3] == after[1::3]  # classes, and the error
        assert before[3::3] == after[3::3]
        for was, cell in zip((before[0], *before[2:-1:3]), (after[0], *after[2:-1:3]), strict=True):
            assert not re.match(r'[\s"]*[=+\-@\uff1d]', cell)
            assert not re.search(r"[,;\n][=+@]", cell)
            assert cell.replace("'", "") == was
            assert ("'" in cell) == (not was.startswith("fine") and was != "")
    assert float(safe[1][3]) > 0


def test_an_error_that_begins_with_a_formula_is_text_in_a_safe_csv() -> None:
    for text, safe in {
        "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0",
        "-1": "'-1",
        "\t1": "'\t1",
        "\r1": "'\r1",
        "a - b": "a - b",
        "a=b": "a=b",
        "": "",
        'x,"=1': "x,\"'=1",
        "a\n+1": "a\n'+1",
        "2 + 2": "2 + 2",
        "'=1": "'=1",
        "\uff20x": "'\uff20x",
    }.items():
        assert without_formula(text) == safe


def test_csv_safe_is_for_csv_alone(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    for name in ("o.parquet", "o.jsonl"):
        done = resx("predict", "tiny", images, "-o", name, "--csv-safe", "--repository", published.root)

        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: --csv-safe, -o {name}: applies to .csv files only")
    assert not list(tmp_path.iterdir())
