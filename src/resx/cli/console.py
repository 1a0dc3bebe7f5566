"""A console that prints names as text: what would steer a terminal is shown escaped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import Console
from rich.file_proxy import FileProxy

from resx.text import one_line, readable

if TYPE_CHECKING:
    from rich.console import HighlighterType, JustifyMethod, OverflowMethod
    from rich.live import Live
    from rich.style import Style
    from rich.text import Text


class SafeConsole(Console):
    """Rich's console, which takes every string that it is given, a table's cells too, for one line of plain text.

    A file, a label or a server's answer may hold escape sequences, line breaks and rich's own markup; rich would
    act on them. Several lines are several calls.
    """

    def __init__(self, file: TextIO, *, width: int | None) -> None:
        super().__init__(file=file, width=width, highlight=False, emoji=False, markup=False)
        self._before_live: list[tuple[TextIO, TextIO]] = []

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: HighlighterType | None = None,
    ) -> Text:
        """Convert a string to text."""
        return Console.render_str(
            self,
            one_line(text),
            style=style,
            justify=justify,
            overflow=overflow,
            emoji=emoji,
            markup=markup,
            highlight=highlight,
            highlighter=highlighter,
        )

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, which whoever prints may take; rich would end the process."""
        raise

    def set_live(self, live: Live) -> bool:
        """Begin to show a spinner or a bar; what others print meanwhile goes above it, escaped."""
        # Rich's own proxy makes colors and links of escape sequences; it is left out where one is there already.
        is_outermost = super().set_live(live)
        before = sys.stdout, sys.stderr
        self._before_live.append(before)
        if self.is_terminal:
            sys.stdout, sys.stderr = (cast("TextIO", _PrintedAbove(self, stream)) for stream in before)
        return is_outermost

    def clear_live(self) -> None:
        """End that."""
        super().clear_live()
        above = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self._before_live.pop()
        for stream in above:
            if isinstance(stream, _PrintedAbove):
                stream.flush()  # what ended without a line end


class _PrintedAbove(FileProxy):
    """A stream whose lines a console prints above what it shows."""

    def write(self, text: str) -> int:
        """Take text; whole lines of it are printed."""
        super().write(readable(text))
        return len(text)
