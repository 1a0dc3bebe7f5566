"""The reference of the command line: a page per command, written from the commands themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from inspect import Parameter, signature
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from resx.cli.help_page import bounds_text, examples_of
from resx.cli.main import COMMANDS
from resx.cli.options.grouping import help_of, ungroup


def render_pages() -> dict[str, str]:
    """Return the pages below docs/: their paths with their Markdown."""
    pages = {f"reference/cli/{one.__name__}.md": _page(one) for group in COMMANDS.values() for one in group}
    return {"reference/cli/index.md": _index()} | pages


def _index() -> str:
    lines = [
        "# Command line",
        "",
        "Generated from the commands; `resx COMMAND --help` says the same.",
        "Results go to stdout (`--json`: one object), everything else to stderr.",
        "[For programs](../programs.md) has the exit codes, errors and types.",
        "",
    ]
    for group, commands in COMMANDS.items():
        lines += [f"## {group}", "", "| command | what it does |", "|---|---|"]
        for one in commands:
            purpose, *_ = help_of(one).split("\n\n")
            lines.append(f"| [`resx {one.__name__}`]({one.__name__}.md) | {_cell(_text(purpose))} |")
        lines.append("")
    return "\n".join(lines)


def _page(command: Callable[..., None]) -> str:
    name = command.__name__
    parameters = [one for one in signature(ungroup(command)).parameters.values() if one.annotation is not typer.Context]
    lines = [f"# resx {name}", ""]
    for paragraph in help_of(command).split("\n\n"):
        if examples := examples_of(paragraph):
            lines += ["```console", *(f"$ {example}" for example in examples), "```", ""]
        else:
            lines += [_text(paragraph), ""]
    arguments = [_argument(one) for one in parameters if isinstance(_info(one), ArgumentInfo)]
    lines += ["```text", " ".join(["resx", name, "[OPTIONS]", *arguments]), "```", ""]
    for panel, members in _panels(parameters).items():
        lines += [f"## {panel}", "", "| name | value | meaning |", "|---|---|---|", *map(_row, members), ""]
    return "\n".join(lines)


def _panels(parameters: list[Parameter]) -> dict[str, list[Parameter]]:
    """Return the parameters by the panel of --help that they stand in, arguments first."""
    panels: dict[str, list[Parameter]] = {"Arguments": [], "Options": []}
    for parameter in parameters:
        info = _info(parameter)
        if not info.hidden:
            usual = "Arguments" if isinstance(info, ArgumentInfo) else "Options"
            panels.setdefault(info.rich_help_panel or usual, []).append(parameter)
    return {panel: members for panel, members in panels.items() if members}


def _info(parameter: Parameter) -> ArgumentInfo | OptionInfo:
    return next(one for one in parameter.annotation.__metadata__ if isinstance(one, (ArgumentInfo, OptionInfo)))


def _kind(parameter: Parameter) -> Any:
    return get_args(parameter.annotation)[0]


def _argument(parameter: Parameter) -> str:
    word = (_info(parameter).metavar or parameter.name.upper()).strip("[]")
    kinds = (_kind(parameter), *get_args(_kind(parameter)))
    word += "..." if any(get_origin(kind) is list for kind in kinds) else ""
    return word if parameter.default is Parameter.empty else f"[{word}]"


def _row(parameter: Parameter) -> str:
    info = _info(parameter)
    if isinstance(info, ArgumentInfo):
        names: tuple[str, ...] = (_argument(parameter),)
    else:
        first = (info.default,) if isinstance(info.default, str) else ()  # within Annotated, Typer reads a name there
        names = (*first, *(info.param_decls or ())) or (f"--{parameter.name.replace('_', '-')}",)
    name = ", ".join(f"`{one}`" for spelling in names for one in spelling.split("/"))
    return f"| {name} | {_cell(_value(parameter))} | {_cell(' '.join(_meaning(parameter)))} |"


def _value(parameter: Parameter) -> str:
    kind, info = _kind(parameter), _info(parameter)
    if get_origin(kind) is Literal:
        return " ".join(f"`{one}`" for one in get_args(kind))
    if kind is bool or isinstance(info, ArgumentInfo):
        return ""
    return f"{_code(info.metavar or parameter.name.upper())}{_range(info)}"


def _code(text: str) -> str:
    """Return text as code; choices may go on in the next line behind each bar."""
    if "|" not in text:
        return f"`{text}`"
    return f"<code>{escape(text, quote=False).replace('|', '&#124;<wbr>')}</code>"


def _range(info: OptionInfo) -> str:
    bounds = bounds_text(info.min, info.max)
    return f", {bounds}" if bounds else ""


def _meaning(parameter: Parameter) -> Iterator[str]:
    info = _info(parameter)
    yield _text(info.help or "")
    default = parameter.default
    shown = isinstance(default, (str, int, float, PurePath)) and not isinstance(default, bool) and default != ""
    if shown and info.show_default:
        yield f"Default: `{default}`."
    if info.envvar:
        yield f"Variable: `{info.envvar}`."
    if default is Parameter.empty and isinstance(info, OptionInfo):
        yield "Required."


def _text(text: str) -> str:
    """Return a help's text as Markdown that shows it as it stands: nothing in it is HTML, a link or emphasis."""
    parts = text.split("`")
    for mark in "<*_[":
        parts[::2] = [part.replace(mark, "&lt;" if mark == "<" else f"\\{mark}") for part in parts[::2]]
    return "`".join(parts)


def _cell(text: str) -> str:
    """Return text as a table's cell; in code, between backquotes, a bar is a bar, and a backslash would be shown."""
    parts = text.replace("\n", " ").split("`")
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)
