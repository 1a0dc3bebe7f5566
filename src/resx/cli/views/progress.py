"""The bar that a terminal shows while a command works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from resx.cli.output import SECONDS_OF_SILENCE, Output, stderr_console, with_time_left

OnProgress = Callable[[int, int], None]
"""Takes how many are done, and of how many."""


@contextlib.contextmanager
def show_bar(out: Output, what: str, *, with_rate: bool = False) -> Iterator[OnProgress]:
    """Give a callback that moves a bar with the time left on a terminal; elsewhere a line says it every ten seconds.

    With `with_rate` the bar begins anew at the first call, whose count was done before and has no part in the rate.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        """How many per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.1f}/s" if task.speed else "")

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    if with_rate:
        columns.insert(3, Rate(""))
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=out.quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        begun = not with_rate
        start_s = said_s = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            nonlocal begun, said_s
            if not console.is_terminal and time.monotonic() - said_s >= SECONDS_OF_SILENCE:
                said_s = time.monotonic()
                out.note(f"  {what}: {with_time_left(f'{done} of {total}', said_s - start_s)}")
            if begun:
                bar.update(task, completed=done, total=total)
            else:
                bar.reset(task, total=total, completed=done)
                begun = True

        yield on_progress
