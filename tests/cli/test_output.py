"""What a command prints is text, whatever the words in it are, and its JSON is JSON."""

from __future__ import annotations

import json
import math
import re

import pytest

from resx.cli import output
from resx.cli.output import Output

EVIL = "\x1b[31mred\x9b0m\x7f\r\u202e"


def test_an_errors_line_shows_what_would_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.fail(f"{EVIL}: no such file")

    assert capsys.readouterr().err == "error: \\x1b[31mred\\x9b0m\\x7f\\r\\u202e: no such file\n"


def test_json_is_ascii_without_control_characters_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True, quiet=False).result({"name": EVIL}, lambda _console: None)

    printed = capsys.readouterr().out
    assert printed.endswith("\n")
    assert all(" " <= character <= "~" for character in printed[:-1])
    assert json.loads(printed) == {"name": EVIL}


@pytest.mark.parametrize("where", ["key", "value", "list"])
def test_json_has_no_lone_surrogate(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\udcff.jpg"  # a byte that is no UTF-8, as Python keeps it
    payload = {"key": {name: 1}, "value": {"x": name}, "list": {"x": [name]}}[where]

    Output(as_json=True, quiet=False).result(payload, lambda _console: None)

    text = capsys.readouterr().out
    json.dumps(json.loads(text), ensure_ascii=False).encode()  # another parser takes it
    assert "xff.jpg" in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_knows_no_number_that_json_does_not_know(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Output(as_json=True, quiet=False).result({"x": value}, lambda _console: None)


@pytest.mark.parametrize(
    ("silence", "expected"), [(0.0, ["A: 1 of 9", "✓ A", "✓ Ab", "✓ B"]), (1e9, ["✓ A", "✓ Ab", "✓ B"])]
)
def test_a_log_says_now_and_then_how_a_step_goes_and_each_step_once(
    silence: float, expected: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "SECONDS_OF_SILENCE", silence)
    with Output(as_json=False, quiet=False).steps() as step:
        for text in ("a", "a: 1 of 9", "ab", "b"):
            step(text)

    lines = [re.sub(r"  [0-9.]+ s$", "", line).strip() for line in capsys.readouterr().err.splitlines()]
    assert lines == expected
