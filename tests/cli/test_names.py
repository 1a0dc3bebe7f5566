"""Names that no record or terminal can take as they are: shown escaped, or refused before anything is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from resx.cli import output
from resx.cli.output import Output
from resx.repository.model_folders import unlistable
from resx.repository.skipped_folders import skipped_entries
from resx.repository.versions import Repository
from resx.text import one_line
from resx.zoo.catalog import variant
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]
BYTES = os.fsdecode(b"c\xe9")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "resnet20", "--data", f"folder:{BYTES}", "-o", "run"],
        ["train", "resnet20", "-o", BYTES],
        ["export", "resnet20", "--int8", "--calibrate", BYTES],
        ["export", f"{BYTES}.onnx"],
        ["export", "resnet20", f"--weights={BYTES}.pth"],
        ["export", "resnet20", "--repository", BYTES],
        ["verify", f"{BYTES}/1.onnx", "2.onnx"],
        ["info", BYTES],
        ["serve", "--repository", BYTES],
        ["predict", BYTES, BYTES, "-o", "o.csv"],
        ["predict", "tiny", BYTES, "-o", f"{BYTES}.csv"],
        ["predict", "tiny", BYTES, "-o", "o.csv", "--repository", BYTES],
        ["query", "tiny", "ok.png", "--repository", BYTES],
        ["query", "tiny", "ok.png", "--url", f"{BYTES}:8001"],
        [BYTES],
    ],
)
def test_bytes_that_are_no_utf8_are_refused_before_anything_is_made(
    resx: Resx, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / BYTES).mkdir()
    for path in (tmp_path / BYTES / "1.png", tmp_path / "ok.png"):
        Image.new("RGB", (8, 8)).save(path)
    before = sorted(map(str, tmp_path.rglob("*")))

    done = resx(*arguments)

    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1
    assert "\\xe9" in done.err or "\\udce9" in done.err  # a model's name is quoted as Python does
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_class_folder_of_bytes_leaves_no_run_behind(resx: Resx, tmp_path: Path) -> None:
    for name in ("cat", os.fsdecode(b"caf\xe9"), "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (8, 8), (index, len(name), 0)).save(tmp_path / "d" / name / f"{index}.png")

    done = resx("train", "resnet20", "--data", "folder:d", "--image-size", "16", "-o", "run")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: d: class 'caf\\xe9': a class's name is one line of UTF-8")
    assert os.listdir(tmp_path) == ["d"]  # noqa: PTH208


def test_an_error_steers_no_terminal(resx: Resx) -> None:
    for name in ("\x1b[31mred\x07.png", "a\rb.png", "a\x9b2Jb.png", os.fsdecode(b"x\xff.png")):
        done = resx("query", "m", name, env={"PYTHONIOENCODING": "ascii"})

        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1
        assert done.err.rstrip("\n").isprintable()
        assert "no such file" in done.err


def test_json_holds_no_lone_surrogate(capsys: pytest.CaptureFixture[str]) -> None:
    payload = {"a": [BYTES, ("\ud800", 1, None, 2.5)], BYTES: {"b": "\U0001f600 caf\xe9"}}

    Output(as_json=True, quiet=False).result(payload, lambda _console: None)

    printed = capsys.readouterr().out
    assert json.loads(printed) == {"a": ["c\\xe9", ["\\ud800", 1, None, 2.5]], "c\\xe9": {"b": "\U0001f600 caf\xe9"}}
    assert json.loads(printed.encode().decode("ascii"))  # whatever stdout's encoding is


def test_results_and_notes_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def show(console: Console) -> None:
        output.print_lines(console, ["one\nline, \x1b[31mred"])
        console.print(output.table("", ["image"], [["a\x1b[2J\nb"], [BYTES], ["[bold]x"]]))

    Output(as_json=False, quiet=False).result({}, show)
    Output(as_json=False, quiet=False).note(f"\x1b[31m{BYTES}")
    output.fail("a\nb\x1b[31m")

    said = capsys.readouterr()
    assert "one\\nline, \\x1b[31mred" in said.out
    assert r"a\x1b[2J\nb" in said.out
    assert "c\\xe9" in said.out
    assert "[bold]x" in said.out
    assert said.err == "\\x1b[31mc\\xe9\nerror: a\\nb\\x1b[31m\n"


def test_an_ascii_terminal_is_shown_what_it_cannot_print(resx: Resx, tmp_path: Path) -> None:
    spec = variant("resnet20").spec.with_changes(labels=("caf\xe9", *(f"c{number}" for number in range(9))))
    (tmp_path / "run\u732b").mkdir()
    (tmp_path / "run\u732b" / "spec.json").write_text(spec.model_dump_json())

    done = resx("info", "run\u732b", env={"PYTHONIOENCODING": "ascii"})

    assert done.code == 0, done.err
    assert "caf\\xe9 ... c8" in done.out


@pytest.mark.parametrize("kind", ["model", "folder", "file"])
def test_a_name_of_bytes_in_a_repository_is_skipped(tmp_path: Path, kind: str) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    shutil.copytree(repository.root / "tiny", repository.root / ".tiny")
    if kind == "model":
        shutil.copytree(repository.root / "tiny", repository.root / BYTES)
    elif kind == "folder":
        (repository.root / BYTES).mkdir()
    else:
        (repository.root / BYTES).touch()

    assert repository.names() == ["tiny"]
    assert unlistable(repository.root) == [BYTES]
    reasons = skipped_entries(repository)
    assert reasons.pop(one_line(BYTES)).startswith("rename it" if kind == "model" else "not a model")
    assert list(reasons) == [".tiny"]
    json.dumps(reasons, ensure_ascii=False).encode()


@pytest.mark.triton
def test_query_shows_a_name_of_bytes_escaped(resx: Resx, triton: RunningTriton, tmp_path: Path) -> None:
    name = os.fsdecode(b"x\xff.png")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    flags = (f"--repository={triton.repository.root}", f"--url={triton.url()}")

    asked, shown = resx("query", "tiny", name, "--json", *flags), resx("query", "tiny", name, *flags)

    assert (asked.code, shown.code) == (0, 0), asked.err + shown.err
    assert asked.json["images"][0]["image"] == "x\\xff.png"
    assert "x\\xff.png" in shown.out
    refused = resx("query", os.fsdecode(b"ti\xff"), name, *flags)
    assert refused.code == 2
    assert "ti\\xff: not valid UTF-8" in refused.err
