"""One export, in whatever format: taken from an earlier one, or made and put where it belongs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.options.engine import FormatOptions
from resx.cli.steps.interruption import keep_interrupts
from resx.cli.views.next_step import to_serve
from resx.errors import UsageError
from resx.names import checked_name

if TYPE_CHECKING:
    from resx.card.card import Card
    from resx.export.options import ExportOptions
    from resx.export.reference import Exportable
    from resx.export.request import ExportRequest
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.versions import Published, Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportJob:
    """What to export, as what, and where to."""

    request: ExportRequest
    format: FormatOptions
    serving: ServingOptions
    repository: Repository
    name: str
    command: str
    """That was typed; it goes into the card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What an export left behind."""

    card: Card
    file: Path
    """The model: ONNX, plan or engine."""
    version: int | None
    """None where nothing was published."""
    next_step: str
    """A command that works as it is printed; empty where something else comes next."""
    advice: str = ""
    """What to do elsewhere."""
    is_kept: bool = False
    """Whether it was made by an earlier export of the same."""


def default_name(source: str) -> str:
    """Return the name in the repository of a source for which none was typed."""
    from resx.zoo.catalog import kind_of
    from resx.zoo.foreign_names import short_name

    kind = kind_of(source)
    if kind == "run":
        return Path(source).resolve().name
    return Path(source).stem if kind == "onnx" else short_name(source)


def require_free_target(wanted: FormatOptions, repository: Repository, name: str) -> None:
    """Check before long work that what will be made has a place to go.

    Raises:
        UsageError: the name cannot be used, or something is there already.
    """
    from resx.repository.publishing import require_one_format

    checked_name(name)
    if wanted.file_format == "tensorrt-rtx" and not wanted.publish:
        target = wanted.engine_folder(name)
        if target.exists():
            raise UsageError(f"{target}: exists already; choose another folder with -o, or move it elsewhere")
    elif wanted.emit_script is None:
        builder = None if wanted.file_format == "onnx" else wanted.file_format.replace("-", "_")
        require_one_format(repository, name, builder=builder)


def reuse(job: ExportJob) -> Made | None:
    """Publish what an earlier export of the same made; None where there is none.

    Raises:
        UsageError: the name cannot be used, or its versions have another interface.
    """
    from resx.repository import publishing

    if job.format.file_format != "onnx":
        return None
    found = publishing.publish_earlier(job.repository, job.request, job.serving, name=job.name, command=job.command)
    return None if found is None else _published(job, *found, is_kept=True)


def make(job: ExportJob, on_step: Callable[[str], None]) -> Made:
    """Export in the format that was asked for, put the result where it belongs, and keep it for the next export.

    Raises:
        MissingCapability: what builds, or its GPU, is missing.
        UsageError: the name cannot be a file's, or something is there already.
        ParityError, ExportError, ResxError: as the format's own function.
    """
    with keep_interrupts(on_step) as step:
        return _make(job, step)


def _make(job: ExportJob, on_step: Callable[[str], None]) -> Made:
    from resx.repository import publishing

    checked_name(job.name)
    if job.format.file_format == "onnx":
        return _published(
            job,
            *publishing.publish_request(
                job.repository, job.request, job.serving, name=job.name, command=job.command, on_step=on_step
            ),
        )
    from resx.export.request import prepare

    package = _load_package(job)
    return _make_engine(job, package, *prepare(job.request, on_step), on_step)


def _load_package(job: ExportJob) -> Any:
    """Return the package that builds, or None where a script is written instead."""
    from resx.export.tensorrt.builder import require_buildable
    from resx.runtimes.tensorrt_package import load_package

    options = job.format.engine_options(job.request.max_batch_size)
    if job.format.emit_script is not None:
        return None
    package = load_package("tensorrt" if job.format.file_format == "tensorrt" else "tensorrt_rtx")
    require_buildable(package, options)
    return package


def _make_engine(
    job: ExportJob, package: Any, source: Exportable, options: ExportOptions, on_step: Callable[[str], None]
) -> Made:
    from resx.export.tensorrt import engine_export
    from resx.repository import publishing

    name, command, script = job.name, job.command, job.format.emit_script
    engine = job.format.engine_options(job.request.max_batch_size)
    if script is not None:
        card = engine_export.export_script(source, options, engine, script, name=name, command=command, on_step=on_step)
        return Made(
            card=card,
            file=script.parent / f"{name}.onnx",
            version=None,
            next_step="",
            advice=f"on the GPU's machine run: bash {shlex.quote(str(script))}; then this command there with --plan "
            f"{shlex.quote(str(script.parent / f'{name}.plan'))}",
        )
    if job.format.file_format == "tensorrt-rtx" and not job.format.publish:
        target = job.format.engine_folder(name)
        card = engine_export.export_engine_folder(
            source, options, engine, package, target, name=name, command=command, on_step=on_step
        )
        return Made(
            card=card,
            file=target / card.model_file,
            version=None,
            next_step="",
            advice="load it with TensorRT-RTX on the target GPU; use --publish for one that `resx serve` can serve",
        )
    card, version = publishing.export_engine_into(
        job.repository, source, options, engine, package, job.serving, name=name, command=command, on_step=on_step
    )
    elsewhere = "in NVIDIA's container: docker compose --profile gpu up --wait"
    return _published(job, card, version, advice="" if job.format.publish else elsewhere)


def _published(job: ExportJob, card: Card, version: Published, *, advice: str = "", is_kept: bool = False) -> Made:
    return Made(
        card=card,
        file=version.folder / card.model_file,
        version=version.version,
        next_step=to_serve(job.name, job.repository),
        advice=advice,
        is_kept=is_kept,
    )
