"""An option's name is never read as another option's value."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from resx.cli.main import app
from resx.errors import UsageError

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def read(command: str, *arguments: str) -> dict[str, Any]:
    """Return the values that a command takes from what was typed behind its name."""
    context = COMMANDS[command].make_context(command, list(arguments))
    return dict(context.params)


def test_every_option_of_every_command_refuses_an_options_name_as_its_value() -> None:
    checked = 0
    for command in COMMANDS.values():
        for option in command.params:
            if option.param_type_name == "argument" or option.is_flag:
                continue
            for name in option.opts:
                with pytest.raises(UsageError, match=f"^{name}: needs a value, but --json follows; give {name} "):
                    read(command.name, "thing", name, "--json")
                checked += 1
    assert checked > 200


def test_an_option_at_the_end_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="^--url: needs a value; give --url URL$"):
        read("verify", "thing", "--url")


def test_an_option_of_two_values_needs_both() -> None:
    with pytest.raises(UsageError, match="^--between: needs a value, but --json follows; give --between LOW HIGH$"):
        read("paths", "resnet20", "--between", "3", "--json")


def test_behind_an_equals_sign_anything_is_a_value() -> None:
    assert str(read("info", "thing", "--repository=--json")["repository"]) == "--json"


def test_behind_two_dashes_nothing_is_an_option() -> None:
    assert read("bench", "--rate", "5", "--", "--rate", "--json")["names"] == ["--rate", "--json"]
