"""`resx export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.commands import depth_family, export_formats
from resx.cli.options.shared import (
    AllowCode,
    Json,
    MaxFileMib,
    MaxMegapixels,
    Quiet,
    RepositoryPath,
    Seed,
    Settings,
    choose,
    finite,
)
from resx.cli.output import Output
from resx.cli.views.version_card import headline, normalization, proof
from resx.errors import UsageError
from resx.files.reading import set_limits
from resx.machine import usable_cores

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.card import Card
    from resx.card.kinds import Precision
    from resx.card.origin import FileArguments


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("export")(export)


def export(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A variant (see `resx models`), a run's folder, an .onnx file, torchvision:NAME, module:function."
        ),
    ] = "",
    fp16: Annotated[bool, typer.Option("--fp16", help="Store and compute in half precision.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Store and compute in bfloat16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Compute on 8-bit integers; calibrates on real images.")] = False,
    target: Annotated[str, typer.Option(help="cpu or gpu: whose form the file has. Default: what is here.")] = "",
    calibrate: Annotated[
        str, typer.Option(help="For int8: digits, DIR, FILE.npz or random. Default: the run's own training images.")
    ] = "",
    calibrate_images: Annotated[
        int, typer.Option("--calibrate-images", min=1, max=1_000_000, help="Images to calibrate on.")
    ] = 512,
    calibrate_method: Annotated[
        str, typer.Option("--calibrate-method", help="entropy, minmax or percentile.")
    ] = "entropy",
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option("--keep-fp32", help="For int8: layers that stay fp32, as `layer4.*`. Repeatable."),
    ] = None,
    input_type: Annotated[
        str,
        typer.Option(
            "--input",
            help="uint8: normalised in the graph; float32: the normalised tensor. Default: uint8, or a file's.",
        ),
    ] = "",
    weights: Annotated[str, typer.Option(help="For a variant: none (random), imagenet, or a file.")] = "none",
    weights_entry: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="For --weights FILE: which of its networks. Default: the only one, or the EMA."
        ),
    ] = "",
    settings: Settings = None,
    pareto: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of a run: N depths, spread over accuracy and latency, as NAME-dBLOCKS."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name in the repository. Default: the variant's or the run's.")] = "",
    image_size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Pixels each way, of a torchvision: or module: network, or an open file."),
    ] = None,
    mean: Annotated[
        str, typer.Option(metavar="R,G,B", help="For a file of float input: of pixels in [0, 1]. Default: ImageNet's.")
    ] = "",
    std: Annotated[str, typer.Option(metavar="R,G,B", help="As --mean: the standard deviation.")] = "",
    labels: Annotated[str, typer.Option(help="For an .onnx file: a text file, one label a line.")] = "",
    output_name: Annotated[
        str, typer.Option("--output-name", metavar="NAME", help="For an .onnx file: which of its outputs to keep.")
    ] = "",
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
    atol: Annotated[
        float | None, typer.Option(callback=finite, help="Largest difference from PyTorch, absolute.")
    ] = None,
    rtol: Annotated[
        float | None, typer.Option(callback=finite, help="Largest difference relative to the logits' scale.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the parity checks; the card says so.")] = False,
    file_format: Annotated[
        str,
        typer.Option(
            "--format", help="onnx; tensorrt: a plan for the GPU here; tensorrt-rtx: an engine, built anywhere."
        ),
    ] = "onnx",
    accelerator: export_formats.AcceleratorName = "",
    compute_capability: export_formats.ComputeCapability = "",
    batch_min: export_formats.BatchMin = 0,
    batch_opt: export_formats.BatchOpt = 0,
    batch_max: export_formats.BatchMax = 0,
    workspace_mib: export_formats.WorkspaceMib = 0,
    timing_cache: export_formats.TimingCache = "",
    tf32: export_formats.Tf32 = False,
    builder_level: export_formats.BuilderLevel = export_formats.STANDARD_LEVEL,
    emit_script: export_formats.EmitScript = None,
    plan: export_formats.GivenPlan = None,
    output: export_formats.OutputFolder = None,
    publish: export_formats.Publish = False,
    reproduce: Annotated[
        Path | None,
        typer.Option(metavar="CARD", help="Run a card.json's export again and compare the bytes; publishes nothing."),
    ] = None,
    allow_code: AllowCode = None,
    force: Annotated[bool, typer.Option("--force", help="Export again what was exported already.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    seed: Seed = 0,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export to ONNX or TensorRT, verify the file against PyTorch, and publish it as the next version.

    Examples: resx export densenet169 --fp16; resx export runs/digits --int8; resx export runs/digits --pareto 3
    """
    from resx.card.card import ACCELERATORS
    from resx.card.kinds import CALIBRATION_METHODS, INPUT_TYPES, TARGETS
    from resx.card.origin import SourceArguments
    from resx.export.request import ExportRequest
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.versions import Repository
    from resx.serving.embedded.python_stub import missing_stub
    from resx.zoo.catalog import kind_of, names_onnx_file

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    out = Output(as_json=json, quiet=quiet)
    if output is not None and names_onnx_file(source) and file_format != "tensorrt-rtx":
        output_name, output = output_name or str(output), None  # there is no folder to name
    flags = export_formats.EngineFlags(
        file_format=choose("--format", file_format, export_formats.FORMATS),
        compute_capability=compute_capability,
        batch_min=batch_min,
        batch_opt=batch_opt,
        batch_max=batch_max,
        max_batch=max_batch,
        workspace_mib=workspace_mib,
        timing_cache=timing_cache,
        tf32=tf32,
        builder_level=builder_level,
        emit_script=emit_script,
        output=output,
        plan=plan,
        publish=publish,
        accelerator=choose("--accelerator", accelerator, ACCELERATORS) if accelerator else "",
        target=target,
    )
    flags.require_fitting()
    serving = ServingOptions(
        instances=instances,
        threads=threads,
        max_queue_size=max_queue,
        response_cache=response_cache,
        image_endpoint=image_endpoint,
    )
    if reason := serving.oversubscribed(usable_cores()):
        out.note(f"warning: {reason}")
    if image_endpoint and (lack := missing_stub()):
        out.note(f"warning: `resx serve` goes without the image endpoint here: {lack}")
    published = Repository(repository)
    precision = _precision(fp16=fp16, bf16=bf16, int8=int8)
    if not int8 and (calibrate or keep_fp32):
        raise UsageError("--calibrate, --keep-fp32: only int8 calibrates and keeps layers; add --int8")
    if target == "cpu" and flags.file_format != "onnx":
        raise UsageError(f"--target cpu: {flags.file_format} runs on a GPU; leave the option out")
    if reproduce is not None:
        _reproduce(reproduce, context, out, allow_code or [])
        return
    if allow_code:
        raise UsageError("--allow-code: is for --reproduce CARD; a module:function that you type is run as it is")
    if not source:
        raise UsageError("SOURCE is missing: name a variant, a run's folder or an .onnx file, or give --reproduce CARD")
    kind = kind_of(source)
    model_name = name or _default_name(source, kind)
    if pareto is None:
        flags.require_free_target(published, model_name)
    else:
        own = {
            "--weights": weights != "none",
            "--weights-entry": bool(weights_entry),
            "--set": bool(settings),
            "--image-size": image_size is not None,
        }
        depth_family.require_sensible(pareto, source, flags, own)
    is_open = not (target or accelerator) and flags.file_format == "onnx"
    form = choose("--target", target, TARGETS) if target else "gpu"
    if is_open:
        from resx.runtimes.onnxruntime_model import default_target

        form = default_target()
    request = ExportRequest(
        source=SourceArguments(
            source=source,
            weights=weights,
            seed=seed,
            image_size=image_size,
            settings=tuple(settings or ()),
            weights_entry=weights_entry,
            file=_file_arguments(source, kind, mean=mean, std=std, labels=labels, output_name=output_name),
        ),
        precision=precision,
        target=form,
        accelerator=choose("--accelerator", accelerator, ACCELERATORS) if accelerator else None,
        input_type=choose("--input", input_type, INPUT_TYPES) if input_type else None,
        max_batch_size=flags.largest_batch,
        verify=not no_verify,
        atol=atol,
        rtol=rtol,
        calibrate=calibrate,
        calibrate_images=calibrate_images,
        calibrate_method=choose("--calibrate-method", calibrate_method, CALIBRATION_METHODS),
        keep_fp32=tuple(keep_fp32 or ()),
    )
    command = shlex.join(["resx", *sys.argv[1:]])
    if pareto is not None:
        depth_family.export(pareto, request, published, serving, name=model_name, force=force, command=command, out=out)
        return
    made = None if force else export_formats.reuse(flags, published, request, serving, name=model_name, command=command)
    if made is None:
        with out.steps() as step:
            step("load PyTorch")
            from resx.export.request import prepare

            package = flags.load_package()
            loaded, options = prepare(request, step)
            made = export_formats.make(
                flags, package, published, loaded, options, serving, name=model_name, command=command, on_step=step
            )
        export_formats.keep(flags, request, made)
    card = made.card
    payload: dict[str, Any] = {
        "name": model_name, "version": made.version, "folder": str(made.file.parent), "precision": card.precision,
        "target": card.target, "accelerator": card.accelerator, "operators_before": card.operators_before,
        "operators_after": card.operators_after,
        "not_fused": card.not_fused,
        "quantisation": card.quantisation.model_dump(mode="json") if card.quantisation else None,
        "quantised_before": card.quantised_before.model_dump(mode="json") if card.quantised_before else None,
        "weights": card.source.weights, "normalization": _normalization(card), "fp16_share": card.fp16_share,
        "size_bytes": made.file.stat().st_size, "verified": card.verified,
        "steps": [step.model_dump(mode="json") for step in card.steps],
        "gpu_parity": card.gpu_parity.model_dump(mode="json") if card.gpu_parity else None,
        "format": flags.file_format, "file": str(made.file), "kept": made.is_kept,
        "engine": card.engine.model_dump(mode="json") if card.engine else None,
    }  # fmt: skip
    out.result(payload, lambda console: _show(console, made))


def _normalization(card: Card) -> dict[str, Any] | None:
    origin = card.source.normalization
    if origin is None:
        return None
    return {"mean": card.signature.mean, "std": card.signature.std} | origin.model_dump(mode="json")


def _reproduce(path: Path, context: typer.Context, out: Output, allowed_code: list[str]) -> None:
    from resx.card.card import FILE_NAME, named_source, read_card
    from resx.errors import ParityError

    allowed = {"reproduce", "allow_code", "json", "quiet"}
    typed = [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
    others = sorted(set(typed) - allowed)
    if others:
        raise UsageError(f"--reproduce {path}: the card says everything; leave {', '.join(others)} out")
    folder = path.parent if path.name == FILE_NAME else path
    card = read_card(folder)
    source = named_source(card, allowed_code, named_in=folder / FILE_NAME)
    with out.steps() as step:
        step("load PyTorch")
        from resx.export.reproduction import reproduce

        found = reproduce(card, source, folder, step)
    if not found.is_identical:
        changed = [
            f"{tool} {then or 'absent'} > {now or 'absent'}" for tool, (then, now) in found.changed_tools.items()
        ]
        why = ", ".join(changed) or "all versions are the same"
        raise ParityError(
            f"{path}: the file made now has sha256 {found.sha256_made[:12]}..., the card's {found.sha256_recorded[:12]}"
            f"...: {'its source has other weights today' if found.source_changed else why}"
        )
    line = f"{card.name}: the same bytes again, sha256 {found.sha256_made}"
    out.result(
        found.model_dump(mode="json") | {"identical": True},
        lambda console: console.print(line, markup=False, soft_wrap=True),
    )


def _default_name(source: str, kind: str) -> str:
    if kind == "run":
        return Path(source).resolve().name
    return Path(source).stem if kind == "onnx" else source.rpartition(":")[2]


def _precision(*, fp16: bool, bf16: bool, int8: bool) -> Precision:
    asked: list[Precision] = ["fp16"] if fp16 else []
    asked += ["bf16"] if bf16 else []
    asked += ["int8"] if int8 else []
    if len(asked) > 1:
        raise UsageError(f"--{' --'.join(asked)}: a file has one precision; give one of them")
    return asked[0] if asked else "fp32"


def _file_arguments(source: str, kind: str, *, mean: str, std: str, labels: str, output_name: str) -> FileArguments:
    from resx.card.origin import FileArguments
    from resx.zoo.spec import parse_channels

    if kind != "onnx" and (mean or std or labels or output_name):
        raise UsageError(f"--mean, --std, --labels, --output-name: {source} has its own; they are for an .onnx file")
    return FileArguments(
        mean=parse_channels("--mean", mean, is_std=False) if mean else None,
        std=parse_channels("--std", std, is_std=True) if std else None,
        labels=labels,
        output=output_name,
    )


def _show(console: Console, made: export_formats.Made) -> None:
    card = made.card
    headline(console, card, made.file)
    if made.is_kept:
        console.print("made by an earlier export of the same; --force makes it again")
    proof(console, card)
    if how := normalization(card):
        advice = "; the file does not say: change it with --mean and --std" if "assumed" in how else ""
        console.print(f"normalization: {how}{advice}", markup=False, soft_wrap=True)
    for line in (*export_formats.remarks(card), f"next: {made.next_step}"):
        console.print(line, markup=False, soft_wrap=True)
