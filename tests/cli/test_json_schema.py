"""docs/json.schema.json says what every command's `--json` prints, and the commands print that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from resx.cli.json_schema import ERROR, RESULTS, schema
from resx.cli.main import COMMANDS
from tests.support.command import ROOT, Finished, Resx
from tests.support.running_triton import RunningTriton

PUBLISHED = ROOT / "docs/json.schema.json"
FEW = ("--runs", "1", "--threads", "1")


def require_described(done: Finished, command: str, code: int = 0) -> Any:
    """Check a command's JSON against the published schema, and return it."""
    assert done.code == code, done.err
    jsonschema.validate({command: done.json}, json.loads(PUBLISHED.read_text()))
    return done.json


def test_the_published_schema_is_what_the_code_writes() -> None:
    assert json.loads(PUBLISHED.read_text()) == schema(), "make schemas"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_every_command_has_a_type() -> None:
    assert list(RESULTS) == [command.__name__ for commands in COMMANDS.values() for command in commands]


def test_a_result_of_another_shape_is_refused() -> None:
    for result in ({"models": [{"name": "a"}]}, {"models": 3}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"models": result}, schema())


def test_an_error_is_described(resx: Resx) -> None:
    done = resx("info", "nothing", "--json")

    jsonschema.validate(done.json, json.loads(PUBLISHED.read_text()))
    assert done.json.keys() == {ERROR}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("models", ()),
        ("info", ("resnet50",)),
        ("paths", ("resnet20",)),
        ("paths", ("resnet20", "--between", "1", "5")),
        ("doctor", ()),
        ("gc", ()),
        ("stop", ()),
    ],
)
def test_what_needs_nothing_prints_what_is_described(resx: Resx, command: str, arguments: tuple[str, ...]) -> None:
    require_described(resx(command, *arguments, "--json"), command)


def test_an_export_and_what_is_asked_of_it_print_what_is_described(resx: Resx, tmp_path: Path) -> None:
    file = tmp_path / "model_repository/a/1/model.onnx"
    require_described(resx("export", "resnet20", "--name", "a", "--json"), "export")
    require_described(resx("export", "--reproduce", file.with_name("card.json"), "--json"), "export")
    require_described(resx("info", "a", "--json"), "info")
    require_described(resx("info", file, "--json"), "info")
    require_described(resx("verify", "a", "--json"), "verify")
    require_described(resx("verify", file, file, "--json"), "verify")
    require_described(resx("push", "a", "shared", "--json"), "push")
    require_described(resx("push", "a", "shared", "--yes", "--json"), "push")
    require_described(resx("pull", "shared", "--name", "b", "--json"), "pull")
    require_described(resx("gc", "--keep", "1", "--json"), "gc")
    require_described(resx("profile", "a", *FEW, "--json"), "profile")
    require_described(resx("deploy", "a", "--render", "kubernetes", "--json"), "deploy")
    require_described(resx("deploy", "a", "--render", "helm", "-o", "chart", "--json"), "deploy")
    Image.new("RGB", (40, 40), (10, 200, 30)).save(tmp_path / "p.png")
    require_described(resx("predict", "a", "p.png", "-o", "o.csv", "--json"), "predict")


def test_a_failed_comparison_is_described_with_its_error(resx: Resx) -> None:
    for name, seed in (("a", "0"), ("b", "1")):
        resx("export", "resnet20", "--name", name, "--seed", seed, "-q")
    files = [f"model_repository/{name}/1/model.onnx" for name in "ab"]

    found = require_described(resx("verify", *files, "--bisect", "--json", "-q"), "verify", code=3)

    assert found[ERROR]["code"] == 3


def test_a_run_prints_what_is_described(resx: Resx, tmp_path: Path) -> None:
    require_described(resx("train", "resnet20", "--epochs", "1", "-o", "run", "--json"), "train")
    require_described(resx("info", "run", "--json"), "info")
    require_described(resx("evaluate", "run", "--json"), "evaluate")
    require_described(resx("evaluate", "run", "--against", "run", "--json"), "evaluate")
    require_described(resx("lesion", "run", "--draws", "1", "--max-deleted", "1", "--json"), "lesion")
    require_described(resx("paths", "run", "--draws", "1", "--images", "1", "--json"), "paths")
    small = ("shrink", "run", "--drop", "1", "--search-images", "16", "--shortlist", "1", "--no-recalibrate")
    require_described(resx(*small, "--json"), "shrink")


@pytest.mark.triton
def test_a_server_s_commands_print_what_is_described(triton: RunningTriton, resx: Resx, tmp_path: Path) -> None:
    where = ("--repository", triton.repository.root, "--json")
    load = ("--concurrency", "1", "--duration", "0.5", "--warmup", "0.1")
    Image.new("RGB", (40, 40), (10, 200, 30)).save(tmp_path / "p.png")
    for command, *arguments in (
        ("status",),
        ("logs",),
        ("query", "tiny", "p.png"),
        ("deploy", "tiny", "--dry-run"),
        ("deploy", "tiny", "--trial", "0"),
        ("verify", "tiny", "--url", triton.url()),
        ("predict", "tiny", "p.png", "-o", "o.jsonl", "--url", triton.url()),
    ):
        require_described(resx(command, *arguments, *where), command)
    # Whether so short a measurement is valid depends on the machine; its result has the same type.
    measured = resx("bench", "tiny", *load, *where)
    require_described(measured, "bench", code=measured.code)
