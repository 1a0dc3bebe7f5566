"""Sentences that break between words on a terminal; commands in backquotes, names and addresses stay whole.

A terminal by itself breaks where its last column is, in the middle of a number too. In a pipe nothing is broken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from resx.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WORD = re.compile(r"(?:`[^`]*`|[^\s`]|`)+(?: (?:%|ms|s|MB|GB|points)(?![^\s.,;:)]))?")
"""A word, or words in backquotes; a number with its unit."""


def flow(console: Console, text: str | Text, *, indent: int = 2) -> Text:
    """Return text with line ends where the console needs them.

    Args:
        console: what it is printed on, with `soft_wrap`: a word that is longer than a line is broken by the terminal.
        text: one line.
        indent: spaces before each line but the first.
    """
    from rich.cells import cell_len
    from rich.text import Text

    whole = Text(one_line(text)) if isinstance(text, str) else text
    if not console.is_terminal or whole.cell_len <= console.width:
        return whole
    lines, start, room = [], 0, console.width
    for word in _WORD.finditer(whole.plain):
        if cell_len(whole.plain[start : word.end()]) > room and whole.plain[start : word.start()].strip():
            lines.append(whole[start : word.start()])
            start, room = word.start(), max(console.width - indent, 1)
    lines.append(whole[start:])
    for line in lines:
        line.rstrip()
    return Text("\n" + " " * indent).join(lines)


def print_text(console: Console, text: str | Text, *, indent: int = 2) -> None:
    """Print a line of words, as `flow` breaks it."""
    console.print(flow(console, text, indent=indent), soft_wrap=True)
