"""How `--help` looks: a panel for each group of options, no name or choice cut, and examples to be copied.

    ╭─ Options ────────────────────────────────────────────────────────────────────╮
    │ --format [onnx|tensorrt|tensorrt-rtx]                                        │
    │                     The kind of file.  [default: onnx]                       │
    │ -o, --output DIR    The file's folder.                                       │

Typer's own page puts names, types and texts into columns of a table, and cuts the names where the types are long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDEST_PAGE = 120
_WIDEST_NAME = 26
"""Columns: what is longer has a line of its own, its text below."""
_TINY = 1e-3
"""A least value below it means anything above zero."""
_NAME, _VALUE, _QUIET = "bold cyan", "yellow", "dim"


def print_page(command: Any, context: Any, commands: Iterable[Any] = ()) -> None:
    """Print the help of a command of Typer's, or of a group with its commands."""
    from resx.cli.console import SafeConsole

    console = SafeConsole(sys.stdout, width=None)
    console.width = min(console.width, _WIDEST_PAGE)
    usage = " ".join([context.command_path, "[OPTIONS]", *_usage_of(command, commands)])
    console.print()
    console.print(f" Usage: {usage}", style="bold", soft_wrap=True)
    console.print()
    for paragraph in (command.help or "").split("\n\n"):
        _print_paragraph(console, paragraph)
    shown = [one for one in command.get_params(context) if not getattr(one, "hidden", False)]
    _print_panels(console, shown, _panel_of, lambda one: (_names(one), _meaning(one)))
    _print_panels(console, commands, lambda one: one.rich_help_panel, _command)


def _usage_of(command: Any, commands: Iterable[Any]) -> Iterator[str]:
    """Yield what stands behind the options."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            word = _names(parameter).plain
            yield word if parameter.required or word.startswith("[") else f"[{word}]"
    if commands:
        yield "COMMAND [ARGS]..."


def examples_of(paragraph: str) -> list[str]:
    """Return the commands of a paragraph `Example: ...` or `Examples: ...; ...`; none of another."""
    label, _, commands = paragraph.partition(": ")
    return [one.strip() for one in commands.split("; ")] if label in ("Example", "Examples") else []


def _print_paragraph(console: Console, paragraph: str) -> None:
    from rich.padding import Padding

    if examples := examples_of(paragraph):
        console.print(f" {paragraph.partition(':')[0]}:")
        for example in examples:
            console.print(f"   {example}", style=_NAME, soft_wrap=True)
        console.print()
    else:
        console.print(Padding(paragraph, (0, 1, 1, 1)))


def _print_panels(
    console: Console, members: Iterable[Any], panel_of: Callable[[Any], str], cells: Callable[[Any], tuple[Text, str]]
) -> None:
    from rich.console import Group
    from rich.panel import Panel

    panels: dict[str, list[Any]] = {"Arguments": [], "Options": []}
    for one in members:
        panels.setdefault(panel_of(one), []).append(one)
    for title, inside in panels.items():
        if inside:
            lines = Group(*_lines(console, [cells(one) for one in inside]))
            console.print(Panel(lines, title=title, title_align="left", border_style=_QUIET))


def _lines(console: Console, cells: list[tuple[Text, str]]) -> Iterator[Text]:
    """Yield the lines of a panel: a text behind its name, or below a name that is too long."""
    from rich.text import Text

    width = console.width - 4  # the panel's border
    column = max((name.cell_len for name, _ in cells if name.cell_len <= _WIDEST_NAME), default=0) + 2
    for name, meaning in cells:
        lines = Text(meaning).wrap(console, width - column)
        if name.cell_len + 2 <= column and lines:
            name.pad_right(column - name.cell_len)
            yield name + lines.pop(0)
        else:
            yield from _fold(name, width)
        for line in lines:
            line.pad_left(column)
            yield line


def _fold(name: Text, width: int) -> Iterator[Text]:
    """Yield a name whole; choices that are too long for a line are parted behind a bar."""
    while name.cell_len > width:
        end = name.plain.rfind("|", 0, width) + 1 or width
        yield name[:end]
        name = name[end:]
        name.pad_left(4)
    yield name


def _panel_of(parameter: Any) -> str:
    usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
    return str(getattr(parameter, "rich_help_panel", None) or usual)


def _names(parameter: Any) -> Text:
    """Return how a parameter is spelled, the short name first, and what it takes."""
    from rich.text import Text

    if parameter.param_type_name == "argument":
        more = "..." if parameter.metavar is None and parameter.nargs != 1 else ""
        return Text(f"{parameter.metavar or parameter.name.upper()}{more}", style=_NAME)
    names = Text(", ".join(sorted(parameter.opts, key=len)), style=_NAME)
    if parameter.secondary_opts:
        names.append(f" / {parameter.secondary_opts[0]}")
    if parameter.metavar:
        names.append(f" {parameter.metavar}", style=f"not bold {_VALUE}")
    return names


def _command(command: Any) -> tuple[Text, str]:
    from rich.text import Text

    return Text(command.name, style=_NAME), (command.help or "").split("\n\n")[0]


def _meaning(parameter: Any) -> str:
    """Return a parameter's text, with its default, bounds and variable behind it."""
    facts = []
    if default := default_text(parameter):
        facts.append(f"default: {default}")
    if bounds := bounds_text(getattr(parameter, "min", None), getattr(parameter, "max", None)):
        facts.append(bounds)
    if parameter.envvar:
        facts.append(f"variable: {parameter.envvar}")
    if parameter.required:
        facts.append("required")
    return "  ".join(filter(None, (parameter.help, f"[{'; '.join(facts)}]" if facts else "")))


def default_text(parameter: Any) -> str:
    """Return the value where nothing is typed; empty where the text says it, or there is none."""
    value = parameter.default
    if not getattr(parameter, "show_default", False) or callable(value):
        return ""
    if isinstance(value, bool):
        names = parameter.opts if value else parameter.secondary_opts
        return str(names[0]).lstrip("-") if parameter.secondary_opts else ""
    return "" if value is None or value in ("", [], ()) else str(value)


def bounds_text(least: float | None, most: float | None) -> str:
    """Return the bounds of an option's number; empty where it has none."""
    if least is not None and most is not None:
        return f"{least:,} to {most:,}"
    if least is None:
        return "" if most is None else f"{most:g} or less"
    return "above 0" if 0 < least < _TINY else f"{least:g} or more"
