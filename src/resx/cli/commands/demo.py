"""`resx demo`: the whole line on the digits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.shared import Json, Quiet, Seed, finite
from resx.cli.output import Output, table
from resx.errors import ParityError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.commands.demo_steps import Summary


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo)


def demo(
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    duration: Annotated[float, typer.Option(min=0.1, callback=finite, help="Seconds of each benchmark.")] = 5.0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keep run and repository here. Default: a temporary folder.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, fold, export, serve, query and measure a stochastic-depth ResNet-20 on real digits, in minutes.

    Example: resx demo
    """
    from resx.cli.commands.demo_steps import walk

    out = Output(as_json=json, quiet=quiet)
    if output is not None and output.exists() and any(output.iterdir()):
        raise UsageError(f"{output}: is not empty; give a new folder")
    with tempfile.TemporaryDirectory(prefix="resx-demo-") as temporary, out.steps() as step:
        summary = walk(
            output or Path(temporary), epochs=epochs, duration_s=duration, seed=seed, step=step, note=out.note
        )
    out.result(summary.model_dump(mode="json"), lambda console: _show(console, summary))
    wrong = [
        f"{model.name} over {protocol}"
        for model in summary.served
        for protocol, same in model.same.items()
        if same < summary.num_images
    ]
    if wrong:
        raise ParityError(f"served answers differ from PyTorch's: {', '.join(wrong)}")


def _show(console: Console, summary: Summary) -> None:
    console.print(
        f"resnet20, survival 0.5 at the last block: {summary.accuracy:.2%} of {summary.num_images} held-out digits "
        f"right; folding changed the logits by {summary.fold_max_abs:.1e} at most (scale {summary.scale:.3g})",
        soft_wrap=True,
    )
    rows = [
        [
            model.name,
            f"{model.size_kb:.0f} kB",
            f"{model.fp16_share:.0%}",
            f"{model.max_abs:.1e}",
            f"{model.same['grpc']}/{summary.num_images}",
            f"{model.same['http']}/{summary.num_images}",
            f"{model.accuracy:.2%}",
            f"{model.measured.images_per_s:.0f}",
            *(
                "n/a" if value is None else f"{value:.2f}"
                for value in (model.measured.p50_ms, model.measured.p90_ms, model.measured.p99_ms)
            ),
        ]
        for model in summary.served
    ]
    columns = ["served", "file", "fp16", "max difference", "as PyTorch, grpc", "as PyTorch, http", "accuracy",
               "images/s", "p50 ms", "p90 ms", "p99 ms"]  # fmt: skip
    console.print(table(f"served by Triton {summary.triton}, concurrency {summary.concurrency}", columns, rows))
