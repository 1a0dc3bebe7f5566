"""`resx export`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_source
from resx.cli.marks import show_done
from resx.cli.options.checks import CheckOptions
from resx.cli.options.engine import FormatOptions
from resx.cli.options.grouping import rare_option, typed_options
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import DetailOptions
from resx.cli.options.precision import PrecisionOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.options.seed import Seed
from resx.cli.options.serving import ServedOptions
from resx.cli.options.source import AllowCode, SourceOptions, require_own_source
from resx.cli.options.validation import choose
from resx.cli.output import Output
from resx.cli.steps import depth_family, export_formats
from resx.cli.views import random_weights
from resx.cli.views.export_result import exported_as_json, show_export
from resx.errors import UsageError
from resx.machine import usable_cores

if TYPE_CHECKING:
    from resx.card.kinds import Precision, Target
    from resx.card.runtime import RuntimeName
    from resx.repository.config_pbtxt import ServingOptions


def export(
    context: typer.Context,
    from_source: SourceOptions,
    in_precision: PrecisionOptions,
    served: ServedOptions,
    checks: CheckOptions,
    as_file: FormatOptions,
    printing: DetailOptions,
    source: Annotated[
        str,
        typer.Argument(
            help="A variant (see `resx models`), a run's folder, an .onnx file, torchvision:NAME, timm:NAME, "
            "hf:ORG/NAME, module:function.",
            autocompletion=complete_source,
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name in the repository. Default: the variant's or the run's.")
    ] = "",
    pareto: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Export N pruned models of a run, from fastest to most accurate, as NAME-dBLOCKS."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Export again what was exported already.")] = False,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    seed: Seed = 0,
    reproduce: Annotated[
        Path | None,
        rare_option(metavar="CARD", help="Run a card.json's export again and compare the bytes; publishes nothing."),
    ] = None,
    allow_code: AllowCode = None,
    *,
    limits: ImageLimits,
) -> None:
    """Export a variant, a run or your own model to ONNX or TensorRT, verify the file, and publish it.

    Examples: resx export densenet169 --fp16; resx export runs/digits --int8; resx export runs/digits --pareto 3
    """
    from resx.export.combinations import require_computable
    from resx.export.request import ExportRequest
    from resx.repository.versions import Repository
    from resx.zoo.catalog import default_name, names_onnx_file

    limits.apply()
    out, typed = printing.open(), typed_options(context)
    if as_file.output is not None and names_onnx_file(source) and as_file.file_format != "tensorrt-rtx":
        # There is no folder to name.
        from_source = replace(from_source, output_name=from_source.output_name or str(as_file.output))
        as_file = replace(as_file, output=None)
        del typed["output"]
    as_file.require_fitting(typed)
    serving = served.options()
    _warn(out, serving)
    precision = in_precision.precision()
    as_file.require_gpu_target()
    if reproduce is not None:
        _reproduce(reproduce, typed, out, allow_code or [])
        return
    if allow_code:
        raise UsageError(
            "--allow-code: applies to --reproduce CARD only; a module:function on the command line always runs"
        )
    if not source:
        raise UsageError("SOURCE is missing: name a variant, a run's folder or an .onnx file, or give --reproduce CARD")
    published, model_name = Repository(repository), name or default_name(source)
    target = _target(as_file)
    runtime = _runtime(as_file, precision, target)
    if pareto is None:
        export_formats.require_free_target(as_file, published, model_name)
    else:
        depth_family.require_sensible(pareto, source, as_file.format(), runtime)
        require_own_source(typed, source)
    request = ExportRequest(
        source=from_source.arguments(source, seed=seed),
        precision=precision,
        target=target,
        runtime=runtime,
        accelerator=as_file.accelerated_by(),
        input_type=in_precision.input(),
        max_batch_size=as_file.largest_batch(served.max_batch),
        verify=not checks.no_verify,
        atol=checks.atol,
        rtol=checks.rtol,
        calibrate=in_precision.calibrate,
        calibrate_images=in_precision.calibrate_images,
        calibrate_method=in_precision.method(runtime),
        keep_fp32=tuple(in_precision.keep_fp32 or ()),
    )
    require_computable(request.combination)
    job = export_formats.ExportJob(
        request=request,
        format=as_file,
        serving=serving,
        repository=published,
        name=model_name,
        command=shlex.join(["resx", *sys.argv[1:]]),
    )
    if pareto is not None:
        depth_family.export(pareto, job, force=force, out=out)
        return
    made = None if force else export_formats.reuse(job)
    if made is None:
        with out.steps() as step:
            step("load PyTorch")
            made = export_formats.make(job, step)
    shown = made
    out.result(
        exported_as_json(model_name, as_file.file_format, made.card, made.file, made.version, kept=made.is_kept),
        lambda console: show_export(
            console,
            shown.card,
            shown.file,
            shown.version,
            shown.next_step,
            shown.advice,
            kept=shown.is_kept,
            verbose=out.verbose,
        ),
    )
    random_weights.warn(out, model_name, is_random=shown.card.source.is_random)


def _warn(out: Output, serving: ServingOptions) -> None:
    from resx.serving.embedded.installation.python_stub import missing_stub

    if reason := serving.oversubscribed(usable_cores()):
        out.note(f"warning: {reason}")
    if serving.image_endpoint and (lack := missing_stub()):
        out.note(f"warning: `resx serve` cannot serve the image endpoint here: {lack}")


def _target(as_file: FormatOptions) -> Target:
    """Return what the file is optimized for: as typed, or what is usual on this machine."""
    from resx.card.kinds import TARGETS

    if as_file.target:
        return choose("--target", as_file.target, TARGETS)
    if as_file.accelerator or as_file.file_format != "onnx":
        return "gpu"
    if as_file.runtime == "openvino":
        return "cpu"
    from resx.runtimes.onnxruntime_model import default_target

    return default_target()


def _runtime(as_file: FormatOptions, precision: Precision, target: Target) -> RuntimeName:
    """Return what computes the file on the CPU: as typed, or what is usual."""
    from resx.card.runtime import RUNTIMES
    from resx.export.combinations import usual_runtime

    return choose("--runtime", as_file.runtime, RUNTIMES) if as_file.runtime else usual_runtime(precision, target)


def _reproduce(path: Path, typed: Mapping[str, str], out: Output, allowed_code: list[str]) -> None:
    from resx.card.card import FILE_NAME, named_source, read_card
    from resx.errors import ParityError

    others = sorted(set(typed) - {"reproduce", "allow_code", "json", "quiet", "wide", "verbose"})
    if others:
        raise UsageError(f"--reproduce {path}: the card determines everything; remove {', '.join(others)}")
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
    facts = (f"Reproduced {card.name}", "the same bytes", f"sha256 {found.sha256_made}")
    out.result(found.model_dump(mode="json") | {"identical": True}, lambda console: show_done(console, *facts))
