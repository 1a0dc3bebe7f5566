"""What a program reads where a command fails: one object on stdout, the usual line on stderr, the documented code."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from resx import errors
from resx.cli.failures import INTERRUPTED, split_remedy, wants_json
from resx.cli.main import COMMANDS, app
from tests.support.command import ROOT, Finished, Resx

NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]
ROOT_COMMAND = typer.main.get_command(app)


def require_error(done: Finished, code: int) -> dict[str, object]:
    """Check that a command said why it failed, to people and to programs, and return the latter."""
    assert done.code == code, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.err
    (line,) = done.out.splitlines()
    found = json.loads(line)
    assert found.keys() == {"error"}
    assert found["error"].keys() == {"code", "message", "remedy"}
    assert found["error"]["code"] == code
    assert str(found["error"]["message"]) in lines[0]
    return found["error"]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_option_of_any_command_is_an_object_with_json(resx: Resx, name: str) -> None:
    error = require_error(resx(name, "--json", "--no-such-option"), 2)

    assert "--no-such-option" in str(error["message"])
    assert error["remedy"] == "see --help"


def typed_wrongly() -> list[tuple[str, str]]:
    """Return a numeric option of every command that has one."""
    return [
        (name, max(one.opts, key=len))
        for name in NAMES
        for one in ROOT_COMMAND.commands[name].params  # type: ignore[attr-defined]
        if one.param_type_name == "option" and one.metavar in ("N", "X", "SECONDS", "MS", "P", "SHARE", "POINTS")
    ]


@pytest.mark.parametrize(("name", "option"), typed_wrongly())
def test_a_value_that_is_no_number_is_an_object_with_json(resx: Resx, name: str, option: str) -> None:
    error = require_error(resx(name, option, "x1", "--json"), 2)

    assert option in str(error["message"]) or "Missing" in str(error["message"])


@pytest.mark.parametrize(
    ("arguments", "code", "remedy"),
    [
        ("info renset50", 2, "did you mean"),
        ("train renset20", 2, "did you mean"),
        ("export", 2, "name a variant"),
        ("export resnet20 --format onxx", 2, "give one of"),
        ("lesion nothing", 2, None),
        ("shrink nothing --drop 1", 2, None),
        ("paths nothing", 2, None),
        ("profile nothing", 2, None),
        ("verify nothing", 2, None),
        ("query m p.png --url 127.0.0.1:9", 2, None),
        ("status --url 127.0.0.1:9", 4, None),
        ("serve", 2, "create one with"),
        ("logs", 2, "start one with"),
        ("deploy nothing", 2, None),
        ("rollback nothing", 2, None),
        ("undeploy nothing --url 127.0.0.1:9", 4, None),
        ("bench", 2, "name a model"),
        ("bench m --compare", 2, "remove --slo"),
        ("tune nothing", 2, None),
        ("plan m --rate 1 --slo p99=x", 2, None),
        ("predict nothing p -o out.csv", 2, None),
        ("gc nothing", 2, None),
    ],
)
def test_an_error_is_an_object_with_its_remedy(resx: Resx, arguments: str, code: int, remedy: str | None) -> None:
    error = require_error(resx(*arguments.split(), "--json"), code)

    if remedy is not None:
        assert remedy in str(error["remedy"])


def test_an_error_without_json_leaves_stdout_empty(resx: Resx) -> None:
    done = resx("info", "renset50")

    assert (done.code, done.out) == (2, "")


def test_a_failed_check_stands_in_the_result(resx: Resx, tmp_path: Path) -> None:
    assert resx("export", "resnet20", "--name", "a", "-q").code == 0
    assert resx("export", "resnet20", "--name", "b", "--seed", "1", "-q").code == 0
    files = [f"model_repository/{name}/1/model.onnx" for name in "ab"]

    done = resx("verify", *files, "--json", "-q")

    assert done.code == 3
    assert len(done.out.splitlines()) == 1
    assert (done.json["passed"], done.json["error"]["code"]) == (False, 3)
    assert done.json["error"]["message"] in done.err
    assert resx("verify", files[0], files[0], "--json", "-q").json.get("error") is None


def test_an_interrupt_is_an_object_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resx", "export", "resnet110", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "Folded" in line)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=600)
    assert process.returncode == INTERRUPTED
    assert json.loads(out) == {"error": {"code": INTERRUPTED, "message": "interrupted", "remedy": None}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("survival=0: give a probability in (0, 1]", ("survival=0", "give a probability in (0, 1]")),
        ("runs/a: exists already; choose another -o", ("runs/a: exists already", "choose another -o")),
        ("a: no b; remove --slo; give --rate", ("a: no b", "remove --slo; give --rate")),
        ("torch is not installed; pip install torch", ("torch is not installed", "pip install torch")),
        ("resnet5: no variant; did you mean resnet50?", ("resnet5: no variant", "did you mean resnet50?")),
        ("a: gone; nothing was written", ("a: gone; nothing was written", None)),
        ("a: gone; `resx logs` shows why", ("a: gone", "`resx logs` shows why")),
        ("a: half; --resume continues it", ("a: half", "--resume continues it")),
        ("a: b; used by another", ("a: b; used by another", None)),
        ("a: b; settings differ: user 3", ("a: b; settings differ: user 3", None)),
        ("--url: is in use", ("--url: is in use", None)),
        (
            "NAME is missing: name a model; `resx status` lists them",
            ("NAME is missing", "name a model; `resx status` lists them"),
        ),
    ],
)
def test_a_message_is_told_from_its_remedy(text: str, expected: tuple[str, str | None]) -> None:
    assert split_remedy(text) == expected


def test_json_behind_two_dashes_is_a_name() -> None:
    assert wants_json(["info", "x", "--json"])
    assert not wants_json(["info", "--", "--json"])


def test_the_page_for_programs_has_the_exit_codes_of_the_errors() -> None:
    page = (ROOT / "docs/reference/programs.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ResxError)]

    assert documented == {0, INTERRUPTED} | {kind.exit_code for kind in kinds}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "x", "--duration", "5s"], "--duration 5s: give a number, in seconds"),
        (["bench", "x", "--batch-size", "0"], "--batch-size 0: give at least 1"),
        (["train", "resnet20", "--epochs", "1.5"], "--epochs 1.5: give a whole number"),
        (["serve", "--http-port", "99999"], "--http-port 99999: give at most 65535"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_rule(resx: Resx, arguments: list[str], message: str) -> None:
    done = resx(*arguments)
    assert (done.code, done.err) == (2, f"error: {message}\n")
