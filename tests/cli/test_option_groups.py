"""Options that a command takes as one value, and what stands on the command line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from resx.cli.options.grouping import typed_options, ungroup
from resx.zoo.catalog import variant
from resx.zoo.spec import SPEC_FILE
from tests.support.command import Finished

Resx = Callable[..., Finished]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    level: Annotated[int, typer.Option("--level", "-l")] = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    needed: Annotated[str, typer.Option("--needed")]
    inner: Inner = Inner()


def run(*arguments: str) -> tuple[object, object]:
    """Run a command of two groups; return what it was called with and what was typed."""
    seen: list[tuple[object, object]] = []

    def command(context: typer.Context, outer: Outer, name: Annotated[str, typer.Argument()] = "n") -> None:
        seen.append(((outer, name), typed_options(context)))

    app = typer.Typer()
    app.command()(ungroup(command))
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return seen[0]


def test_a_group_is_read_from_its_options_at_any_depth() -> None:
    called, _ = run("--needed", "x", "-l", "5", "m")

    assert called == (Outer(needed="x", inner=Inner(level=5)), "m")


def test_an_option_that_is_typed_with_its_default_was_typed() -> None:
    _, typed = run("--needed", "x", "-l", "3")
    _, untyped = run("--needed", "x")

    assert typed == {"needed": "--needed", "level": "--level"}
    assert untyped == {"needed": "--needed"}


def test_the_fields_of_a_group_are_required_where_they_have_no_default() -> None:
    def command(outer: Outer) -> None: ...

    parameters = inspect.signature(ungroup(command)).parameters
    assert parameters["needed"].default is inspect.Parameter.empty
    assert parameters["level"].default == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "resnet20", "--builder-level", "3"), "--builder-level: does not apply to --format onnx"),
        (("export", "resnet20", "--batch-min", "0"), "--batch-min: does not apply to --format onnx"),
        (("export", "resnet20", "--no-tf32"), "--tf32: does not apply to --format onnx"),
        (("export", "run", "--pareto", "2", "--weights", "none"), "--weights: run has its own; remove the option"),
        (("predict", "m", "p", "-o", "x.csv", "--ray-cpus", "1"), "--ray-actors, --ray-cpus: apply to a Ray cluster"),
        (("predict", "m", "p", "-o", "x.csv", "--protocol", ""), "--protocol, --ca, --cert, --key, --header: apply"),
        (("deploy", "m", "--replicas", "2"), "--replicas: is for manifests"),
        (("deploy", "m", "--render", "kubernetes", "--trial", "2"), "--trial: applies to a running server"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused_though_its_value_is_the_default(
    arguments: tuple[str, ...], message: str, resx: Resx, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SPEC_FILE).write_text(variant("resnet20").spec.model_dump_json())

    done = resx(*arguments)

    assert (done.code, message in done.err) == (2, True), done.err
    assert len(done.err.splitlines()) == 1


def test_an_earlier_run_is_not_trained_over_where_no_folder_is_named(resx: Resx, tmp_path: Path) -> None:
    (tmp_path / "runs" / "resnet20").mkdir(parents=True)

    done = resx("train", "resnet20")

    assert (done.code, done.err) == (
        2,
        "error: runs/resnet20: exists already; choose another -o, or --resume or --force it\n",
    )
    assert not any((tmp_path / "runs" / "resnet20").iterdir())


def test_a_smaller_run_goes_beside_the_first_and_not_over_another(resx: Resx, tmp_path: Path) -> None:
    for name in ("digits", "digits-small"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "digits" / SPEC_FILE).write_text(variant("resnet20").spec.model_dump_json())

    done = resx("shrink", "runs/digits", "--drop", "1")

    assert (done.code, done.err) == (2, "error: runs/digits-small: exists already; choose a new folder with -o\n")


def test_only_typer_s_own_errors_are_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "from resx.cli import main\n"
        "class Error(Exception):\n"
        "    def format_message(self): return 'not of the command line'\n"
        "def app(standalone_mode): raise Error\n"
        "main.app = app\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, "-m", "failing"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)
