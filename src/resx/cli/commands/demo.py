"""`resx demo`: the whole line on the digits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.command_lines import command_line
from resx.cli.options.grouping import output_option
from resx.cli.options.output import TableOptions
from resx.cli.options.seed import Seed
from resx.cli.options.validation import finite
from resx.errors import ParityError, UsageError

if TYPE_CHECKING:
    from rich.console import Console


def demo(
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs to train.")] = 15,
    duration: Annotated[
        float, typer.Option(min=0.1, callback=finite, metavar="SECONDS", help="Seconds of each benchmark.")
    ] = 5.0,
    output: Annotated[
        Path | None,
        output_option(
            "-o", "--output", metavar="DIR", help="Keep run and repository here. Default: a temporary folder."
        ),
    ] = None,
    *,
    printing: TableOptions,
    seed: Seed = 0,
) -> None:
    """Train a small ResNet on real digits, then export, serve, query and measure it, in minutes.

    Example: resx demo
    """
    from resx.cli.steps.demo_walk import walk
    from resx.cli.views.demo_summary import show_summary

    out = printing.open()
    if output is not None and output.exists() and any(output.iterdir()):
        raise UsageError(f"{output}: is not empty; choose a new folder")
    with tempfile.TemporaryDirectory(prefix="resx-demo-") as temporary, out.steps() as step:
        summary = walk(
            output or Path(temporary), epochs=epochs, duration_s=duration, seed=seed, step=step, note=out.note
        )
    if output is None:  # nothing is left to go on with
        next_step = command_line("train", "resnet20", "--data", "digits", "-o", "runs/digits")
    else:
        next_step = command_line("serve", "--detach", "--repository", output / "model_repository")
    wrong = [
        f"{model.name} over {protocol}"
        for model in summary.served
        for protocol, same in model.same.items()
        if same < summary.num_images
    ]
    verdict = ParityError(f"served answers differ from PyTorch's: {', '.join(wrong)}") if wrong else None

    def show(console: Console) -> None:
        show_summary(console, summary, "" if verdict else next_step)

    out.result(summary.model_dump(mode="json"), show, verdict)
    if verdict is not None:
        raise verdict
