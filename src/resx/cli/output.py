"""What a command prints: results on stdout, everything else on stderr.

With `--json` stdout holds one JSON object and nothing more; without it a table or a few lines. Steps and
progress go to stderr, so that stdout is clean in a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from resx.cli.failures import Failure, failure_of
from resx.cli.fitting_table import Cell, FittingTable
from resx.cli.flowing_text import flow
from resx.cli.marks import labeled, mark
from resx.cli.step_words import finished, running
from resx.errors import ResxError
from resx.files.disk_space import OUT_OF_ROOM
from resx.text import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_ANSWERED = threading.Event()
"""Set once stdout holds its one JSON object."""

_AS_WIDE_AS_NEEDED = 10_000
"""In a pipe, and with --wide: a row is one line, and every column is shown."""
SECONDS_OF_SILENCE = 10.0
"""In a log, where no spinner turns: then a step says how far it is."""
_SOON_S = 2.0
"""Before that, how long a step has taken tells nothing of how long it will take."""
_REFUSED = (2, 4)
"""Exit codes of errors that say all in one line: nothing was begun that could be said to have failed."""
_SHARE_DONE = re.compile(r"^([\d,]+) of ([\d,]+)\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a command's words go; made from the `--json`, `-q`, `--wide` and `-v` that it was given."""

    as_json: bool
    quiet: bool
    wide: bool = False
    """Tables have all their columns, however wide the terminal is."""
    verbose: bool = False
    """Results have all their details."""

    def result(
        self,
        payload: Mapping[str, Any],
        show: Callable[[Console], None],
        error: ResxError | KeyboardInterrupt | None = None,
    ) -> None:
        """Print the result: `payload` as one JSON object, or what `show` prints for people.

        Args:
            payload: what `--json` prints; `resx.cli.results` has its type.
            show: prints the same for people.
            error: that is raised next: a result that failed says in its JSON why.
        """
        if self.as_json:
            _write_json({**payload, "error": failure_of(error).as_json()} if error else payload)
        else:
            show(_console_on(_terminal_behind(sys.stdout), wide=self.wide))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something on stderr, unless quiet; `warning:` at its beginning is in yellow."""
        if not self.quiet:
            console = stderr_console()
            console.print(flow(console, labeled(text)), soft_wrap=True)

    def note_step(self, name: str, took_s: float, *, failed: bool) -> None:
        """Say on stderr that a step ended, unless quiet."""
        if self.quiet:
            return
        from rich.text import Text

        console, words = stderr_console(), running(name) if failed else finished(name)
        line = Text.assemble(mark(console, good=not failed), f" {one_line(words)}", (f"  {took_s:.1f} s", "dim"))
        console.print(flow(console, line), soft_wrap=True)

    @contextlib.contextmanager
    def steps(self) -> Iterator[Callable[[str], None]]:
        """Give a function that announces the next step; each is printed once, with a tick and its time, when it ends.

        The words are made of the step's, as `cli.step_words` says. A step in which something failed gets a cross.

        On a terminal the running step shows a spinner. A text that begins with the running step's, and goes on behind a
        colon, says how it goes: beside the spinner, or as a line of its own where there is none, every ten seconds.
        """
        with self.live() as live:
            yield live.begin

    @contextlib.contextmanager
    def live(self) -> Iterator[Live]:
        """Give what announces steps, as `steps` does, and shows on a terminal how the running one goes."""
        console = stderr_console()
        with console.status("") if console.is_terminal and not self.quiet else contextlib.nullcontext() as status:
            live = Live(self, status)
            try:
                yield live
            except BaseException as error:
                # A package that is missing is said in one line too (`cli.packages`).
                if not (
                    isinstance(error, ImportError) or (isinstance(error, ResxError) and error.exit_code in _REFUSED)
                ):
                    with readers_may_leave():
                        live.finish(failed=True)
                raise
            live.finish()


class Live:
    """The step that is under way."""

    def __init__(self, out: Output, status: Status | None) -> None:
        self._out, self._status = out, status
        self._name, self._start, self._said = "", 0.0, 0.0

    def begin(self, name: str) -> None:
        """End the step before, if there is one, and begin another; or say how the running one goes."""
        if self._name and name.startswith(f"{self._name}: "):
            self._say(with_time_left(name.removeprefix(f"{self._name}: "), time.monotonic() - self._start))
            return
        self.finish()
        self._name, self._start = name, time.monotonic()
        self._said = self._start
        self.show("")

    def show(self, detail: str) -> None:
        """Show on a terminal how it goes."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(one_line(f"{running(self._name)}  {detail}")))  # of a str it would take markup

    def _say(self, detail: str) -> None:
        """Show how it goes; where there is no spinner, now and then as a line."""
        self.show(detail)
        if self._status is None and time.monotonic() - self._said >= SECONDS_OF_SILENCE:
            self._said = time.monotonic()
            self._out.note(f"  {running(self._name)}: {detail}")

    def finish(self, *, failed: bool = False) -> None:
        """Print the step with its time."""
        if self._name:
            name, self._name = self._name, ""
            self._out.note_step(name, time.monotonic() - self._start, failed=failed)


def with_time_left(detail: str, elapsed_s: float) -> str:
    """Return how far a step is, `3 of 9 images`, with the time that the rest takes at that pace."""
    found = _SHARE_DONE.match(detail)
    if found is None or elapsed_s < _SOON_S:
        return detail
    done, total = (int(number.replace(",", "") or 0) for number in found.groups())
    if not done:
        return detail
    left_s = elapsed_s * max(0, total / done - 1)
    return f"{detail}, {f'{left_s:.0f} s' if left_s < 120 else f'{left_s / 60:.0f} min'} left"


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    left: int = 1,
    least: Sequence[str] = (),
    is_matrix: bool = False,
) -> FittingTable:
    """Return a table whose first `left` columns are words and the others numbers.

    Where it is too narrow for all, the columns that `least` names go in this order, then the others from the right. Of
    a matrix, whose columns are alike, all that fit are shown; of another table no more than one reads at a glance.
    """
    return FittingTable(
        title=title,
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        num_words=left,
        least=tuple(least),
        is_matrix=is_matrix,
    )


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines that a terminal breaks where it ends: whoever copies a name or a command gets it whole."""
    for line in lines:
        console.print(line, soft_wrap=True)


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """Go on if what is printed reaches nobody: a closed pipe or terminal gets nothing more, a full disk less."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EPIPE, errno.EIO}:
            for stream in (sys.stdout, sys.stderr):
                _drop_if_closed(stream)
        elif error.errno not in OUT_OF_ROOM:
            raise


def _drop_if_closed(stream: TextIO) -> None:
    """Let a stream that nobody reads lead nowhere from now on."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(message: str) -> None:
    """Print an error's one line on stderr; what a name in it would do to a terminal is shown escaped."""
    with readers_may_leave():
        console = stderr_console()
        if console.is_terminal:
            console.print(flow(console, labeled(f"error: {message}")), soft_wrap=True)
        else:
            sys.stderr.write(f"error: {one_line(message)}\n")


def expect_answer() -> None:
    """Take stdout for empty: a command begins."""
    _ANSWERED.clear()


def fail_as_json(failed: Failure) -> None:
    """Print an error as the one JSON object on stdout; nothing where the result is there, which says it itself."""
    if not _ANSWERED.is_set():
        with readers_may_leave():
            _write_json({"error": failed.as_json()})
            sys.stdout.flush()


def _write_json(payload: Mapping[str, Any]) -> None:
    # json escapes what is no ASCII, C1 and the marks that reorder text among it, and C0; not DEL.
    text = json.dumps(_printable(payload), allow_nan=False).replace("\x7f", "\\u007f")
    _ANSWERED.set()
    sys.stdout.write(f"{text}\n")


def _printable(value: Any) -> Any:
    """Return a payload in which every string can be UTF-8: JSON with a lone surrogate is refused by other parsers."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(inside) for inside in value]
    return value


def stderr_console() -> Console:
    """Return the one console on stderr: what is printed while it shows a spinner or a bar goes above that."""
    return _console_on(_terminal_behind(sys.stderr))


def _terminal_behind(stream: TextIO) -> TextIO:
    """Return the stream without what stands in front of it: `resx.streams`, and a spinner's proxy while it is shown."""
    while (behind := getattr(stream, "rich_proxied_file", None)) is not None:
        stream = behind
    return stream


@functools.lru_cache(maxsize=3)
def _console_on(stream: TextIO, *, wide: bool = False) -> Console:
    from resx.cli.console import SafeConsole

    fits = not wide and (stream.isatty() or "COLUMNS" in os.environ)
    return SafeConsole(stream, width=None if fits else _AS_WIDE_AS_NEEDED)
