"""One text for a step: what runs and what is done are told from it."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from resx.cli import marks
from resx.cli.console import SafeConsole
from resx.cli.output import Output, with_time_left
from resx.cli.step_words import finished, running
from resx.errors import ParityError, ResxError, UsageError


@pytest.mark.parametrize(
    ("step", "now", "then"),
    [
        ("load PyTorch", "Loading PyTorch", "Loaded PyTorch"),
        ("build resnet50", "Building resnet50", "Built resnet50"),
        ("verify the file", "Verifying the file", "Verified the file"),
        ("load v2 and check its answer", "Loading v2 and checking its answer", "Loaded v2 and checked its answer"),
        (
            "start the server, load the models and run their self-tests",
            "Starting the server, loading the models and running their self-tests",
            "Started the server, loaded the models and ran their self-tests",
        ),
        ("grpc://a:8001: load version 2", "grpc://a:8001: loading version 2", "grpc://a:8001: loaded version 2"),
        ("[2/7] train resnet20", "[2/7] Training resnet20", "[2/7] Trained resnet20"),
        ("concurrency 4", "Concurrency 4", "Concurrency 4"),
        ("digits, concurrency 4", "digits, concurrency 4", "digits, concurrency 4"),
    ],
)
def test_a_step_is_told_as_it_runs_and_when_it_is_done(step: str, now: str, then: str) -> None:
    assert (running(step), finished(step)) == (now, then)


def fail_in(steps: list[str], error: ResxError) -> None:
    """Announce steps, and fail in the last one."""
    with contextlib.suppress(type(error)), Output(as_json=False, quiet=False).steps() as step:
        for name in steps:
            step(name)
        raise error


def test_a_step_in_which_something_failed_gets_a_cross(capsys: pytest.CaptureFixture[str]) -> None:
    fail_in(["load PyTorch", "verify the file"], ParityError("no"))

    said = re.sub(r"\d+\.\d s", "T", capsys.readouterr().err).splitlines()
    assert said == ["✓ Loaded PyTorch  T", "✗ Verifying the file  T"]


def test_wrong_usage_is_one_line_and_nothing_failed(capsys: pytest.CaptureFixture[str]) -> None:
    fail_in(["load PyTorch"], UsageError("no"))

    assert capsys.readouterr().err == ""


def test_a_pace_gives_the_time_that_is_left() -> None:
    assert with_time_left("25 of 100 images", 10.0) == "25 of 100 images, 30 s left"
    assert with_time_left("1,000 of 4,000 images", 10.0) == "1,000 of 4,000 images, 30 s left"
    assert with_time_left("1 of 100 images", 10.0) == "1 of 100 images, 16 min left"
    assert with_time_left("25 of 100 images", 0.1) == "25 of 100 images"
    assert with_time_left("0 of 100 images", 10.0) == "0 of 100 images"
    assert with_time_left("half of it", 10.0) == "half of it"


@pytest.mark.parametrize(("encoding", "line"), [("utf-8", "✓ Exported a · fp32\n"), ("ascii", "+ Exported a, fp32\n")])
def test_a_tick_is_what_the_encoding_can_hold(encoding: str, line: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    marks.show_done(SafeConsole(stream, width=80), "Exported a", "", "fp32")
    stream.flush()
    assert raw.getvalue().decode(encoding) == line


def test_labels_are_in_color_on_a_terminal_unless_no_color_is_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [span.style for span in marks.labeled("error: x").spans] == ["bold red"]
    assert [span.style for span in marks.labeled("warning: x").spans] == ["yellow"]
    assert marks.labeled("the error: x").spans == []
    monkeypatch.setenv("FORCE_COLOR", "1")
    for no_color, escapes in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        stream = io.StringIO()
        SafeConsole(stream, width=80).print(marks.labeled("warning: x"))
        assert ("\x1b[33m" in stream.getvalue()) == escapes
