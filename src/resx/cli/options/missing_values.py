"""Refuse an option's name in the place of a value: Click reads `--url --json` as the URL "--json"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resx.errors import UsageError


def require_values(options: Sequence[Any], arguments: Sequence[str]) -> None:
    """Require a value behind each option that takes one.

    Args:
        options: Typer's parameters of a command; those that are arguments are left out.
        arguments: what was typed behind the command's name.

    Raises:
        UsageError: nothing, or the name of another option, is where the value belongs; `--url=--json` passes.
    """
    named = {name: one for one in options if one.param_type_name == "option" for name in _names(one)}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for position, argument in enumerate(arguments[:end]):
        option = named.get(argument)
        if option is None or option.is_flag or option.count:
            continue
        values = arguments[position + 1 : min(position + 1 + option.nargs, end)]
        taken = next((value for value in values if value.partition("=")[0] in named), "")
        if taken or len(values) < option.nargs:
            found = f", but {taken} follows" if taken else ""
            raise UsageError(f"{argument}: needs a value{found}; give {argument} {option.metavar or 'VALUE'}")


def _names(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]
