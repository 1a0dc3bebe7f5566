"""`resx train`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options import Json, Quiet, Seed
from resx.cli.output import Output
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.training.loop import OnEpoch, OnStep


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("train")(train)


def train(
    name: Annotated[str, typer.Argument(help="A variant: see `resx models`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")],
    data: Annotated[str, typer.Option(help="The data set: digits.")] = "digits",
    survival: Annotated[
        float, typer.Option(help="p_L: probability that the last block survives a step; 1 is constant depth.")
    ] = 1.0,
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    batch_size: Annotated[int, typer.Option(min=2)] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-9)] = 0.05,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the run in this folder and begin anew.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a variant; the run's folder holds its weights, spec and metrics after every epoch.

    Example: resx train resnet20 --data digits --survival 0.5 -o runs/digits
    """
    from resx.training import checkpoint
    from resx.training.config import TrainingConfig
    from resx.training.data import load_data
    from resx.training.loop import train as train_model
    from resx.zoo.catalog import variant

    if resume and force:
        raise UsageError("--resume and --force: give one of them")
    found = variant(name)
    images = load_data(data)
    spec = found.spec.with_changes(
        classes=len(images.labels), survival=survival, labels=images.labels, image=images.image
    )
    config = TrainingConfig(data=data, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    _prepare(output, is_run=checkpoint.is_run(output), resume=resume, force=force)
    out = Output(as_json=json, quiet=quiet)
    metrics: list[dict[str, Any]] = []
    try:
        with _progress(out, epochs) as (on_step, on_epoch):

            def remember(entry: dict[str, Any]) -> None:
                metrics.append(entry)
                on_epoch(entry)

            train_model(spec, images, config, output, resume=resume, on_step=on_step, on_epoch=remember)
    except KeyboardInterrupt:
        out.note(f"stopped after {len(metrics)} of {epochs} epochs; go on with --resume")
        raise
    last = metrics[-1]
    payload = {"run": str(output), "model": name, "num_held_out": len(images.held_out), **last}
    line = (
        f"{output}: {name}, {last['epoch']} epochs, {last['accuracy']:.2%} of {len(images.held_out)} held-out images right\n"
        f"next: resx export {output}"
    )
    out.result(payload, lambda console: console.print(line, markup=False, soft_wrap=True))


def _prepare(folder: Path, *, is_run: bool, resume: bool, force: bool) -> None:
    """Refuse to overwrite a run, and to resume what is not one."""
    if resume and not is_run:
        raise UsageError(f"{folder}: no run to resume; leave out --resume to begin one")
    if is_run and not resume and not force:
        raise UsageError(f"{folder}: holds a run; --resume goes on with it, --force deletes it")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder")
    if folder.is_dir() and not is_run and any(folder.iterdir()):
        raise UsageError(f"{folder}: is a folder of something else; give a new one")
    if is_run and force:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _progress(out: Output, epochs: int) -> Iterator[tuple[OnStep, OnEpoch]]:
    """Give the callbacks: a bar on a terminal, and a line per epoch everywhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=out.quiet or not console.is_terminal) as bar:
        task = bar.add_task("steps", total=None)

        def on_step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        def on_epoch(entry: dict[str, Any]) -> None:
            text = (
                f"  epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  accuracy {entry['accuracy']:.2%}  "
                f"{entry['images_per_s']:.0f} images/s"
            )
            if not out.quiet:
                bar.console.print(text, highlight=False)

        yield on_step, on_epoch
