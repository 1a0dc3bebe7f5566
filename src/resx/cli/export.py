"""`resx export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli import engine
from resx.cli.options import Json, Quiet, RepositoryPath, Seed, Settings, chosen
from resx.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console


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
    file_format: Annotated[
        str,
        typer.Option(
            "--format", help="onnx; tensorrt: a plan for the GPU here; tensorrt-rtx: an engine, built anywhere."
        ),
    ] = "onnx",
    compute_capability: engine.ComputeCapability = "",
    batch_min: engine.BatchMin = 0,
    batch_opt: engine.BatchOpt = 0,
    batch_max: engine.BatchMax = 0,
    workspace_mib: engine.WorkspaceMib = 0,
    timing_cache: engine.TimingCache = "",
    tf32: engine.Tf32 = False,
    builder_level: engine.BuilderLevel = engine.STANDARD_LEVEL,
    emit_script: engine.EmitScript = None,
    output: engine.OutputFolder = None,
    repository: RepositoryPath = Path("model_repository"),
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export to ONNX or TensorRT, verify the file against PyTorch, and publish it as the next version.

    Example: resx export densenet169 --fp16
    """
    from resx.serving.repository import Repository
    from resx.serving.triton_config import ServingOptions
    from resx.zoo.catalog import kind_of

    out = Output(as_json=json, quiet=quiet)
    flags = engine.EngineFlags(
        file_format=chosen("--format", file_format, engine.FORMATS), compute_capability=compute_capability,
        batch_min=batch_min, batch_opt=batch_opt, batch_max=batch_max, max_batch=max_batch, workspace_mib=workspace_mib,
        timing_cache=timing_cache, tf32=tf32, builder_level=builder_level, emit_script=emit_script, output=output,
    )  # fmt: skip
    flags.require_fitting()
    serving = ServingOptions(instances=instances, threads=threads)
    published = Repository(repository)
    kind = kind_of(source)
    if kind != "run" or name:
        flags.require_free_target(published, name or source.rpartition(":")[2])
    with out.steps() as step:
        step("load PyTorch")
        from resx.export.card import INPUT_TYPES
        from resx.export.pipeline import ExportOptions
        from resx.export.source import load_source

        options = ExportOptions(
            precision="fp16" if fp16 else "fp32", input_type=chosen("--input", input_type, INPUT_TYPES),
            max_batch_size=flags.largest_batch, seed=seed, verify=not no_verify, atol=atol, rtol=rtol,
        )  # fmt: skip
        package = flags.load_package()
        step(f"build {source}")
        loaded = load_source(source, weights=weights, seed=seed, image_size=image_size, settings=settings or [])
        target = name or loaded.name
        command = shlex.join(["resx", *sys.argv[1:]])
        made = engine.make(
            flags, package, published, loaded, options, serving, name=target, command=command, on_step=step
        )
    card = made.card
    payload: dict[str, Any] = {
        "name": target, "version": made.version, "folder": str(made.file.parent), "precision": card.precision,
        "weights": card.source.weights, "fp16_share": card.fp16_share, "size_bytes": made.file.stat().st_size,
        "verified": card.verified, "steps": [step.model_dump(mode="json") for step in card.steps],
        "format": flags.file_format, "file": str(made.file),
        "engine": card.engine.model_dump(mode="json") if card.engine else None,
    }  # fmt: skip
    out.result(payload, lambda console: _show(console, made))


def _show(console: Console, made: engine.Made) -> None:
    card, size_bytes = made.card, made.file.stat().st_size
    rows = [
        [step.step, str(step.num_images), f"{step.max_abs:.2e}", f"{step.mean_abs:.2e}", f"{step.scale:.3g}",
         f"{step.top1_agreement:.1%}", "passed" if step.passed else "failed"]
        for step in card.steps
    ]  # fmt: skip
    console.print(
        f"{made.file.parent}: {card.precision}, {size_bytes / 1e6:.1f} MB, {card.fp16_share:.1%} of the weights fp16, "
        f"weights {card.source.weights}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if rows:
        columns = ["against PyTorch", "images", "max", "mean", "scale", "top-1", "verdict"]
        console.print(table("", columns, rows))
    else:
        console.print("not verified (--no-verify)")
    for line in (*engine.remarks(card), f"next: {made.next_step}"):
        console.print(line, markup=False, soft_wrap=True)
