"""Sentences break between words on a terminal, and nowhere in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from resx.cli.flowing_text import flow


def console(width: int, *, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal)


@pytest.mark.parametrize("width", [20, 33, 80])
def test_a_line_breaks_between_words_and_fits(width: int) -> None:
    text = "error: the server at 127.0.0.1 took 12.5 ms for one image, and 8 images took 31 ms together"

    lines = flow(console(width), text).plain.split("\n")

    assert " ".join(line.strip() for line in lines) == text
    assert all(len(line) <= width for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_command_and_a_number_with_its_unit_stay_whole() -> None:
    lines = flow(console(24), "error: took 12.5 ms; run `resx export resnet50 --force`, then 40 %").plain.split("\n")

    assert [line.strip() for line in lines] == [
        "error: took 12.5 ms; run", "`resx export resnet50 --force`,", "then 40 %"
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "terminal"), [(20, False), (10_000, True)])
def test_in_a_pipe_and_where_it_fits_nothing_breaks(width: int, terminal: bool) -> None:
    text = "one line of words that is longer than twenty characters"

    assert flow(console(width, terminal=terminal), text).plain == text


def test_control_characters_are_shown_escaped() -> None:
    assert flow(console(80), "a\x1b[31m\nb").plain == "a\\x1b[31m\\nb"
