"""`resx runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options.figure import Plot
from resx.cli.options.output import TableOptions
from resx.cli.options.validation import choose
from resx.cli.views.run_listing import show_runs
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.training.runs.run_listing import FoundRuns


def runs(
    printing: TableOptions,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with runs, or a run.")] = Path("runs"),
    sort: Annotated[
        str,
        typer.Option(
            metavar="[date|accuracy|epochs|time|model|data|name]",
            help="date: newest first; accuracy and epochs: highest first; time: shortest first.",
        ),
    ] = "date",
    plot: Plot = None,
) -> None:
    """List the runs in a folder: model, data, recipe, epochs, best accuracy, training time and date.

    Runs that cannot be read are named with the reason. --plot draws accuracy and loss of all runs by epoch.

    Examples: resx runs; resx runs runs --sort accuracy --plot curves.png
    """
    from resx.training.runs.run_listing import ORDERS, list_runs

    order = choose("--sort", sort, ORDERS)
    if plot is not None:
        from resx.figures import require_drawable

        require_drawable(plot)
    found = list_runs(folder, order)
    if plot is not None:
        _draw(found, folder, plot)
    payload: dict[str, Any] = {
        "folder": str(folder),
        "runs": [run.model_dump(mode="json") for run in found.runs],
        "broken": [run.model_dump(mode="json") for run in found.broken],
        "best": found.best.folder if found.best else None,
    }
    printing.open().result(payload, lambda console: show_runs(console, found, folder, plot))


def _draw(found: FoundRuns, folder: Path, path: Path) -> None:
    from resx.bench.report.run_curves import draw_curves

    curves = {run.folder: found.epochs[run.folder] for run in found.runs if run.epochs_done}
    if not curves:
        raise UsageError(f"--plot {path}: no run in {folder} has finished an epoch; remove the option")
    draw_curves(curves, f"{len(curves)} runs in {folder}" if len(curves) > 1 else next(iter(curves)), path)
