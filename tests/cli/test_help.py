"""What `--help` promises: groups of commands, options in panels, all of it at 80 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperOption

from resx.cli.main import COMMANDS, app
from resx.cli.options.grouping import OUTPUT_PANEL, RARE_PANEL

NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "resx", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    return done.stdout


def titles(text: str) -> list[str]:
    return [line.strip("╭─╮ ") for line in text.splitlines() if line.startswith("╭")]


def options(name: str) -> Iterator[TyperOption]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    yield from (one for one in command.params if isinstance(one, TyperOption))


def test_the_commands_stand_in_six_groups() -> None:
    text = help_of()

    assert titles(text) == ["Options", "Models", "Research", "Export", "Serving", "Measuring", "Machine"]
    assert all(f"│ {name} " in text for name in NAMES)


@pytest.mark.parametrize("name", ["export", "bench", "deploy"])
def test_a_long_help_reads_well_at_80_columns(name: str) -> None:
    text = help_of(name)

    assert max(map(len, text.splitlines())) <= 80
    for option in options(name):
        assert all(f"{spelled} " in text.replace(",", " ") for spelled in option.opts)
    assert titles(text)[:2] == ["Arguments", "Options"]
    assert "--help" in text[text.index(f"╭─ {OUTPUT_PANEL} ") :]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_text_and_the_rare_ones_come_last(name: str) -> None:
    panels = list(dict.fromkeys(option.rich_help_panel for option in options(name) if option.rich_help_panel))

    assert [option.name for option in options(name) if not option.help] == []
    assert OUTPUT_PANEL in panels
    if RARE_PANEL in panels:
        assert panels[-1] == RARE_PANEL
        assert panels[-2] == OUTPUT_PANEL


def test_an_option_of_several_commands_has_one_text() -> None:
    texts: dict[str, set[str | None]] = {}
    for name in NAMES:
        for option in options(name):
            texts.setdefault(option.name or "", set()).add(option.help)

    differ = {name for name, found in texts.items() if len(found) > 1}
    # Each of these means something else in another command.
    assert differ == {
        "batch_size", "bf16", "concurrency", "data", "device", "draws", "duration", "epochs", "force", "image_size",
        "images", "max_batch", "output", "pareto", "protocol", "rate", "rtol", "runtime", "schema", "slo", "threads",
        "url",
    }  # fmt: skip
