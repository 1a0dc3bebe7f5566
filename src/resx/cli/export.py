"""`resx export`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli import engine
from resx.cli.options import Json, Quiet, RepositoryPath, Seed, Settings, chosen
from resx.cli.output import Output, table
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.export.card import Precision, Quantisation


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("export")(export)


def export(
    source: Annotated[
        str, typer.Argument(help="A variant (see `resx models`), a run's folder, torchvision:NAME or module:function.")
    ],
    fp16: Annotated[bool, typer.Option("--fp16", help="Store and compute in half precision.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Store and compute in bfloat16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Compute on 8-bit integers; calibrates on real images.")] = False,
    target: Annotated[str, typer.Option(help="cpu or gpu: whose form the file has. Default: what is here.")] = "",
    calibrate: Annotated[
        str, typer.Option(help="For int8: digits, DIR, FILE.npz or random. Default: the run's own training images.")
    ] = "",
    calibrate_images: Annotated[int, typer.Option("--calibrate-images", min=1, help="Images to calibrate on.")] = 512,
    calibrate_method: Annotated[
        str, typer.Option("--calibrate-method", help="entropy, minmax or percentile.")
    ] = "entropy",
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option("--keep-fp32", help="For int8: layers that stay fp32, as `layer4.*`. Repeatable."),
    ] = None,
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
    max_queue: Annotated[
        int,
        typer.Option(
            "--max-queue", min=-1, help="Requests that may wait before one is refused; 0: no bound, -1: four batches."
        ),
    ] = -1,
    response_cache: Annotated[
        bool, typer.Option("--response-cache", help="The server answers repeated requests from memory.")
    ] = False,
    image_endpoint: Annotated[
        bool, typer.Option("--image-endpoint", help="Also publish NAME_image, which takes JPEG, PNG and WebP files.")
    ] = False,
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

    Examples: resx export densenet169 --fp16; resx export runs/digits --int8
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
    serving = ServingOptions(
        instances=instances, threads=threads, max_queue_size=max_queue, response_cache=response_cache,
        image_endpoint=image_endpoint,
    )  # fmt: skip
    if reason := serving.oversubscribed(len(os.sched_getaffinity(0))):
        out.note(f"warning: {reason}")
    published = Repository(repository)
    precision = _precision(fp16=fp16, bf16=bf16, int8=int8)
    if not int8 and (calibrate or keep_fp32):
        raise UsageError("--calibrate, --keep-fp32: only int8 calibrates and keeps layers; add --int8")
    if target == "cpu" and flags.file_format != "onnx":
        raise UsageError(f"--target cpu: {flags.file_format} runs on a GPU; leave the option out")
    kind = kind_of(source)
    if kind != "run" or name:
        flags.require_free_target(published, name or source.rpartition(":")[2])
    with out.steps() as step:
        step("load PyTorch")
        from resx.export.calibration import load_calibration, require_data
        from resx.export.card import CALIBRATION_METHODS, INPUT_TYPES, TARGETS
        from resx.export.int8_file import Int8Options
        from resx.export.pipeline import ExportOptions
        from resx.export.runtimes import default_target
        from resx.export.source import load_source

        if target:
            form = chosen("--target", target, TARGETS)
        else:
            form = default_target() if flags.file_format == "onnx" else "gpu"
        method = chosen("--calibrate-method", calibrate_method, CALIBRATION_METHODS)
        input_kind = chosen("--input", input_type, INPUT_TYPES)
        if int8:
            require_data(calibrate, has_own_data=kind == "run")
        package = flags.load_package()
        step(f"build {source}")
        loaded = load_source(source, weights=weights, seed=seed, image_size=image_size, settings=settings or [])
        quantising = None
        if int8:
            step("load calibration images")
            images = load_calibration(
                calibrate, loaded.description.spec, num_images=calibrate_images, seed=seed,
                run=Path(source) if kind == "run" else None,
            )  # fmt: skip
            quantising = Int8Options(calibration=images, method=method, keep_fp32=tuple(keep_fp32 or ()))
        options = ExportOptions(
            precision=precision, target=form, int8=quantising, input_type=input_kind,
            max_batch_size=flags.largest_batch, seed=seed, verify=not no_verify, atol=atol, rtol=rtol,
        )  # fmt: skip
        model_name = name or loaded.name
        command = shlex.join(["resx", *sys.argv[1:]])
        made = engine.make(
            flags, package, published, loaded, options, serving, name=model_name, command=command, on_step=step
        )
    card = made.card
    payload: dict[str, Any] = {
        "name": model_name, "version": made.version, "folder": str(made.file.parent), "precision": card.precision,
        "target": card.target, "operators_before": card.operators_before, "operators_after": card.operators_after,
        "quantisation": card.quantisation.model_dump(mode="json") if card.quantisation else None,
        "weights": card.source.weights, "fp16_share": card.fp16_share, "size_bytes": made.file.stat().st_size,
        "verified": card.verified, "steps": [step.model_dump(mode="json") for step in card.steps],
        "format": flags.file_format, "file": str(made.file),
        "engine": card.engine.model_dump(mode="json") if card.engine else None,
    }  # fmt: skip
    out.result(payload, lambda console: _show(console, made))


def _precision(*, fp16: bool, bf16: bool, int8: bool) -> Precision:
    asked: list[Precision] = ["fp16"] if fp16 else []
    asked += ["bf16"] if bf16 else []
    asked += ["int8"] if int8 else []
    if len(asked) > 1:
        raise UsageError(f"--{' --'.join(asked)}: a file has one precision; give one of them")
    return asked[0] if asked else "fp32"


def _show(console: Console, made: engine.Made) -> None:
    card, size_bytes = made.card, made.file.stat().st_size
    rows = [
        [step.step, str(step.num_images), f"{step.max_abs:.2e}", f"{step.mean_abs:.2e}", f"{step.scale:.3g}",
         f"{step.top1_agreement:.1%}", "-" if step.cosine is None else f"{step.cosine:.5f}",
         "passed" if step.passed else "failed"]
        for step in card.steps
    ]  # fmt: skip
    small = f"{card.quantisation.int8_share:.1%} of the weights int8" if card.quantisation else ""
    console.print(
        f"{made.file.parent}: {card.precision} for the {card.target}, {size_bytes / 1e6:.1f} MB, "
        f"{small or f'{card.fp16_share:.1%} of the weights in 16 bits'}, "
        f"weights {card.source.weights}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if rows:
        columns = ["against PyTorch", "images", "max", "mean", "scale", "top-1", "cosine", "verdict"]
        console.print(table("", columns, rows))
    else:
        console.print("not verified (--no-verify)")
    changed = {
        name: (card.operators_before.get(name, 0), card.operators_after.get(name, 0))
        for name in sorted({*card.operators_before, *card.operators_after})
    }
    counts = [
        f"{name} {after}" if before == after else f"{name} {before} > {after}"
        for name, (before, after) in changed.items()
    ]
    console.print(f"operators: {', '.join(counts)}", markup=False, soft_wrap=True)
    if card.quantisation:
        _show_quantisation(console, card.quantisation)
    for line in (*engine.remarks(card), f"next: {made.next_step}"):
        console.print(line, markup=False, soft_wrap=True)


def _show_quantisation(console: Console, quantisation: Quantisation) -> None:
    what = "NOISE, no real images: " if quantisation.is_random else ""
    console.print(
        f"calibrated on {what}{quantisation.num_images} of {quantisation.calibrated_on}, {quantisation.method}; "
        f"{len(quantisation.kept_fp32)} of {quantisation.num_layers} layers kept in fp32"
        + (f", found by measuring {quantisation.num_tried} files" if quantisation.num_tried else ""),
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if quantisation.kept_fp32:
        rows = [
            [kept.layer, "asked for" if kept.error is None else f"{kept.error:.2e}"] for kept in quantisation.kept_fp32
        ]
        console.print(table("", ["kept in fp32", "power lost to 8 bits"], rows))
