"""What a result begins and ends with: a tick, its facts in one line, its verdicts in color, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.flowing_text import flow
from resx.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GOOD, _BAD = "green", "red"
_LABELS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def mark(console: Console, *, good: bool) -> Text:
    """Return a tick or a cross, in ASCII where the console's encoding has neither."""
    from rich.text import Text

    sign = ("✓" if good else "✗") if _can_write(console, "✓✗") else ("+" if good else "x")
    return Text(sign, style=_GOOD if good else _BAD)


def verdict(text: str, *, good: bool | None) -> Text:
    """Return a table's cell in green or red; None: in neither."""
    from rich.text import Text

    return Text(one_line(text), style="" if good is None else _GOOD if good else _BAD)


def labeled(message: str) -> Text:
    """Return a message whose `error:`, `warning:` or `note:` at its beginning is in color."""
    from rich.text import Text

    text = Text(one_line(message))
    label, colon, _ = message.partition(":")
    if colon and (style := _LABELS.get(label)):
        text.stylize(style, 0, len(label) + 1)
    return text


def show_done(console: Console, *facts: str, good: bool = True) -> None:
    """Print what was done in one line: a tick, and what there is to say of it; empty facts are left out."""
    from rich.text import Text

    line = Text.assemble(mark(console, good=good), f" {in_one_line(console, *facts)}")
    console.print(flow(console, line), soft_wrap=True)


def in_one_line(console: Console, *facts: str) -> str:
    """Return facts with a dot between; empty ones are left out."""
    between = " · " if _can_write(console, "·") else ", "
    return one_line(between.join(filter(None, facts)))


def show_next(console: Console, command: str) -> None:
    """Print the command that comes next, if there is one; it works as it is printed."""
    from rich.text import Text

    if not command:
        return
    console.print(Text.assemble(("Next:", "bold"), f" {one_line(command)}"), soft_wrap=True)


def _can_write(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
