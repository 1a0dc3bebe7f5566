"""`resx export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options import Json, Quiet, RepositoryPath, Seed, chosen
from resx.cli.output import Output, table
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.export.card import Card, Precision, Quantisation
    from resx.serving.repository import Published


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("export")(export)


def export(
    source: Annotated[str, typer.Argument(help="A variant (see `resx models`) or a run's folder.")],
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
    name: Annotated[str, typer.Option(help="Name in the repository. Default: the variant's or the run's.")] = "",
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

    Examples: resx export densenet169 --fp16; resx export runs/digits --int8
    """
    from resx.serving.publishing import export_into
    from resx.serving.repository import Repository
    from resx.serving.triton_config import ServingOptions
    from resx.zoo.catalog import kind_of

    out = Output(as_json=json, quiet=quiet)
    serving = ServingOptions(instances=instances, threads=threads)
    published = Repository(repository)
    precision = _precision(fp16=fp16, bf16=bf16, int8=int8)
    is_variant = kind_of(source) == "variant"
    if not int8 and (calibrate or keep_fp32):
        raise UsageError("--calibrate, --keep-fp32: only int8 calibrates and keeps layers; add --int8")
    if is_variant or name:
        published.require_publishable(name or source)
    with out.steps() as step:
        step("load PyTorch")
        from resx.export.calibration import load_calibration, require_data
        from resx.export.card import CALIBRATION_METHODS, INPUT_TYPES, TARGETS
        from resx.export.int8_file import Int8Options
        from resx.export.pipeline import ExportOptions
        from resx.export.runtimes import default_target
        from resx.export.source import load_source

        kind = chosen("--input", input_type, INPUT_TYPES)
        form = chosen("--target", target, TARGETS) if target else default_target()
        method = chosen("--calibrate-method", calibrate_method, CALIBRATION_METHODS)
        if int8:
            require_data(calibrate, has_own_data=not is_variant)
        step(f"build {source}")
        loaded = load_source(source, weights=weights, seed=seed)
        quantising = None
        if int8:
            step("load calibration images")
            images = load_calibration(
                calibrate, loaded.description.spec, num_images=calibrate_images, seed=seed,
                run=None if is_variant else Path(source),
            )  # fmt: skip
            quantising = Int8Options(calibration=images, method=method, keep_fp32=tuple(keep_fp32 or ()))
        options = ExportOptions(
            precision=precision, target=form, int8=quantising, input_type=kind,
            max_batch_size=max_batch, seed=seed, verify=not no_verify, atol=atol, rtol=rtol,
        )  # fmt: skip
        model_name = name or loaded.name
        command = shlex.join(["resx", *sys.argv[1:]])
        card, version = export_into(published, loaded, options, serving, name=model_name, command=command, on_step=step)
    size_bytes = (version.folder / "model.onnx").stat().st_size
    payload: dict[str, Any] = {
        "name": model_name, "version": version.version, "folder": str(version.folder), "precision": card.precision,
        "target": card.target, "operators_before": card.operators_before, "operators_after": card.operators_after,
        "quantisation": card.quantisation.model_dump(mode="json") if card.quantisation else None,
        "weights": card.source.weights, "fp16_share": card.fp16_share, "size_bytes": size_bytes,
        "verified": card.verified, "steps": [step.model_dump(mode="json") for step in card.steps],
    }  # fmt: skip
    out.result(payload, lambda console: _show(console, card, version, size_bytes))


def _precision(*, fp16: bool, bf16: bool, int8: bool) -> Precision:
    asked: list[Precision] = ["fp16"] if fp16 else []
    asked += ["bf16"] if bf16 else []
    asked += ["int8"] if int8 else []
    if len(asked) > 1:
        raise UsageError(f"--{' --'.join(asked)}: a file has one precision; give one of them")
    return asked[0] if asked else "fp32"


def _show(console: Console, card: Card, version: Published, size_bytes: int) -> None:
    rows = [
        [step.step, str(step.num_images), f"{step.max_abs:.2e}", f"{step.mean_abs:.2e}", f"{step.scale:.3g}",
         f"{step.top1_agreement:.1%}", "-" if step.cosine is None else f"{step.cosine:.5f}",
         "passed" if step.passed else "failed"]
        for step in card.steps
    ]  # fmt: skip
    small = f"{card.quantisation.int8_share:.1%} of the weights int8" if card.quantisation else ""
    console.print(
        f"{version.folder}: {card.precision} for the {card.target}, {size_bytes / 1e6:.1f} MB, "
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
    console.print(f"operators: {', '.join(counts)}", markup=False)
    if card.quantisation:
        _show_quantisation(console, card.quantisation)
    console.print(f"next: resx serve --detach; or, if a server runs: resx deploy {card.name}", markup=False)


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
