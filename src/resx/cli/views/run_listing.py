"""Runs side by side, for people."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.command_lines import command_line
from resx.cli.flowing_text import print_text
from resx.cli.marks import mark, show_next
from resx.cli.output import print_lines, table
from resx.cli.views.training import clock_time
from resx.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from resx.training.runs.run_listing import FoundRuns, ListedRun

_COLUMNS = ("run", "model", "data", "recipe", "epochs", "best %", "at epoch", "time", "date")
_LEAST = ("recipe", "at epoch", "time", "data")


def show_runs(console: Console, found: FoundRuns, folder: Path, plot: Path | None) -> None:
    """Print a row for each run, why others cannot be read, and how the best one is exported."""
    if found.runs:
        console.print(table("", _COLUMNS, [_row(run) for run in found.runs], left=4, least=_LEAST))
    elif not found.broken:
        print_lines(console, [f"{folder}: no runs"])
    for broken in found.broken:
        from rich.text import Text

        reason = broken.reason if broken.reason.startswith(broken.folder) else f"{broken.folder}: {broken.reason}"
        print_text(console, Text.assemble(mark(console, good=False), f" {one_line(reason)}"))
    if plot is not None:
        print_lines(console, [f"wrote {plot}"])
    if found.best is not None:
        show_next(console, command_line("export", found.best.folder))


def _row(run: ListedRun) -> list[str]:
    date = datetime.datetime.fromisoformat(run.date).astimezone()
    return [
        run.folder,
        run.model,
        run.data,
        run.recipe,
        str(run.epochs_done) if run.epochs_done == run.epochs else f"{run.epochs_done} of {run.epochs}",
        "n/a" if run.best_accuracy is None else f"{100 * run.best_accuracy:.2f}",
        "" if run.best_epoch is None else str(run.best_epoch),
        "n/a" if run.training_s is None else clock_time(run.training_s),
        f"{date:%Y-%m-%d %H:%M}",
    ]
