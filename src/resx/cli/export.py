"""`resx export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options import Json, Quiet, RepositoryPath, Seed, Settings, chosen
from resx.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.export.card import Card
    from resx.serving.repository import Published


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("export")(export)


def export(
    source: Annotated[
        str, typer.Argument(help="A variant (see `resx models`), a run's folder, torchvision:NAME or module:function.")
    ],
    fp16: Annotated[bool, typer.Option("--fp16", help="Store and compute in half precision.")] = False,
    input_type: Annotated[
        str, typer.Option("--input", help="uint8: images, normalised in the graph; float32: the normalised tensor.")
    ] = "uint8",
    weights: Annotated[str, typer.Option(help="For a variant: none (random), imagenet, or a file.")] = "none",
    settings: Settings = None,
    name: Annotated[str, typer.Option(help="Name in the repository. Default: the variant's or the run's.")] = "",
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Pixels each way, of a torchvision: or module: network.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Largest batch that will be served.")] = 8,
    instances: Annotated[int, typer.Option(min=1, help="Instances of the model on the server.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of an instance; 0: the server's cores, shared.")] = 0,
    atol: Annotated[float | None, typer.Option(help="Largest difference from PyTorch, absolute.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Largest difference relative to the logits' scale.")] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the parity checks; the card says so.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export to ONNX, verify the file against PyTorch, and publish it as the next version.

    Example: resx export densenet169 --fp16
    """
    from resx.serving.publishing import export_into
    from resx.serving.repository import Repository
    from resx.serving.triton_config import ServingOptions
    from resx.zoo.catalog import kind_of

    out = Output(as_json=json, quiet=quiet)
    serving = ServingOptions(instances=instances, threads=threads)
    published = Repository(repository)
    kind = kind_of(source)
    if kind != "run" or name:
        published.require_publishable(name or source.rpartition(":")[2])
    with out.steps() as step:
        step("load PyTorch")
        from resx.export.card import INPUT_TYPES
        from resx.export.pipeline import ExportOptions
        from resx.export.source import load_source

        options = ExportOptions(
            precision="fp16" if fp16 else "fp32", input_type=chosen("--input", input_type, INPUT_TYPES),
            max_batch_size=max_batch, seed=seed, verify=not no_verify, atol=atol, rtol=rtol,
        )  # fmt: skip
        step(f"build {source}")
        loaded = load_source(source, weights=weights, seed=seed, image_size=image_size, settings=settings or [])
        target = name or loaded.name
        command = shlex.join(["resx", *sys.argv[1:]])
        card, version = export_into(published, loaded, options, serving, name=target, command=command, on_step=step)
    size_bytes = (version.folder / "model.onnx").stat().st_size
    payload: dict[str, Any] = {
        "name": target, "version": version.version, "folder": str(version.folder), "precision": card.precision,
        "weights": card.source.weights, "fp16_share": card.fp16_share, "size_bytes": size_bytes,
        "verified": card.verified, "steps": [step.model_dump(mode="json") for step in card.steps],
    }  # fmt: skip
    out.result(payload, lambda console: _show(console, card, version, size_bytes))


def _show(console: Console, card: Card, version: Published, size_bytes: int) -> None:
    rows = [
        [step.step, str(step.num_images), f"{step.max_abs:.2e}", f"{step.mean_abs:.2e}", f"{step.scale:.3g}",
         f"{step.top1_agreement:.1%}", "passed" if step.passed else "failed"]
        for step in card.steps
    ]  # fmt: skip
    console.print(
        f"{version.folder}: {card.precision}, {size_bytes / 1e6:.1f} MB, {card.fp16_share:.1%} of the weights fp16, "
        f"weights {card.source.weights}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if rows:
        columns = ["against PyTorch", "images", "max", "mean", "scale", "top-1", "verdict"]
        console.print(table("", columns, rows))
    else:
        console.print("not verified (--no-verify)")
    console.print(f"next: resx serve --detach; or, if a server runs: resx deploy {card.name}", markup=False)
