"""What a command prints: results on stdout, everything else on stderr.

With `--json` stdout holds one JSON object and nothing more; without it a table or a few lines. Steps and
progress go to stderr, so that stdout is clean in a pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH_IN_A_PIPE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a command's words go; made from the `--json` and `-q` that it was given."""

    as_json: bool
    quiet: bool

    def result(self, payload: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """Print the result: `payload` as one JSON object, or what `show` prints for people."""
        if self.as_json:
            sys.stdout.write(json.dumps(payload, allow_nan=False) + "\n")
        else:
            show(_console(stderr=False))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something on stderr, unless quiet."""
        if not self.quiet:
            _console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def steps(self) -> Iterator[Callable[[str], None]]:
        """Give a function that announces the next step; each is printed with its time when it ends.

        On a terminal the running step shows a spinner.
        """
        console = _console(stderr=True)
        begun: list[tuple[str, float]] = []
        with console.status("") if console.is_terminal and not self.quiet else contextlib.nullcontext() as status:

            def finish() -> None:
                if begun:
                    name, start = begun.pop()
                    self.note(f"  {name}  {time.monotonic() - start:.1f} s")

            def begin(name: str) -> None:
                finish()
                begun.append((name, time.monotonic()))
                if status is not None:
                    status.update(name)

            yield begin
            finish()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Table:
    """Return a table whose first `left` columns are words and the others numbers."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def fail(message: str) -> None:
    """Print an error's one line on stderr."""
    sys.stderr.write(f"error: {message}\n")


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_IN_A_PIPE
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)
