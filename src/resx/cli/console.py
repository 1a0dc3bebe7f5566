"""A console that prints names as text: what would steer a terminal is shown escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.console import Console

from resx.listing import one_line

if TYPE_CHECKING:
    from rich.console import HighlighterType, JustifyMethod, OverflowMethod
    from rich.style import Style
    from rich.text import Text


class SafeConsole(Console):
    """Rich's console, through which every string goes that it prints, a table's cells too.

    A file, a label or a server's answer may hold escape sequences; rich would pass them on.
    """

    def render_str(
        self, text: str, *, style: str | Style = "", justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None, emoji: bool | None = None, markup: bool | None = None,
        highlight: bool | None = None, highlighter: HighlighterType | None = None,
    ) -> Text:  # fmt: skip
        """Convert a string to text; its own lines and tabs stay what they are."""
        shown = "".join(part if part in ("\n", "\t") else one_line(part) for part in re.split(r"([\n\t])", text))
        return Console.render_str(
            self, shown, style=style, justify=justify, overflow=overflow,
            emoji=emoji, markup=markup, highlight=highlight, highlighter=highlighter,
        )  # fmt: skip
