"""`resx compare`."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.command_lines import command_line, in_repository
from resx.cli.completion import complete_thing
from resx.cli.options.comparison import ComparedImages, ComparisonFiles, FormOptions, Name, Pick
from resx.cli.options.connection import Connection
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.options.seed import Seed
from resx.cli.options.source import SourceOptions
from resx.cli.steps import export_comparison
from resx.cli.steps.compared_source import find_source
from resx.cli.steps.evaluated_models import Asking
from resx.cli.steps.export_comparison import NO_IMAGES, ComparedForms, ComparisonJob
from resx.cli.steps.tuning_candidates import read_wishes
from resx.cli.views import random_weights
from resx.cli.views.export_comparison import show_comparison
from resx.cli.views.next_step import to_serve
from resx.errors import ExportError, ObjectiveMissed, ResxError, UsageError

if TYPE_CHECKING:
    from resx.bench.exports.comparison import ExportComparison
    from resx.bench.exports.conditions import Condition
    from resx.repository.versions import Repository


def compare(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="THING",
            help="A run, a variant, torchvision:NAME, timm:NAME, an .onnx file, or a published model.",
            autocompletion=complete_thing,
        ),
    ],
    from_source: SourceOptions,
    forms: FormOptions,
    images: ComparedImages,
    files: ComparisonFiles,
    printing: TableOptions,
    limits: ImageLimits,
    pick: Pick = "",
    name: Name = "",
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    seed: Seed = 0,
) -> None:
    """Export a model in every precision and runtime, and compare size, error, accuracy, latency and throughput.

    Each form is verified as `resx export` does, and measured on this machine's CPU without a server, in turns with the
    others. Nothing is published without --pick.

    Exit code 3 if no form meets --pick.

    Examples: resx compare runs/digits; resx compare runs/digits --pick 'latency<2ms' -o compared
    """
    from resx.bench.exports.conditions import parse_conditions
    from resx.cli.options.engine import FormatOptions
    from resx.cli.steps.export_formats import require_free_target
    from resx.repository.versions import Repository

    limits.apply()
    conditions = parse_conditions(pick) if pick else ()
    published, out = Repository(repository), printing.open()
    source, usual_name = find_source(thing, from_source, published, seed=seed)
    job = ComparisonJob(
        text=thing,
        source=source,
        name=name or usual_name,
        wishes=read_wishes(forms.runtimes, forms.precisions, forms.calibrate),
        max_batch_size=forms.max_batch,
        plan=forms.plan(),
        images=images.wanted(),
        asking=Asking(source=from_source, server=Connection(repository=repository), retries=0, seed=seed),
        command=shlex.join(["resx", *sys.argv[1:]]),
    )
    if pick:
        require_free_target(FormatOptions(), published, job.name)
        _require_accuracy(conditions, job, pick)
    files.require_writable()
    with tempfile.TemporaryDirectory(prefix="resx-") as scratch:
        found = export_comparison.compare_forms(job, Path(scratch), out)
        comparison, missed = _settle(found, job, conditions, published, pick)
    if files.output is not None:
        _write(files.output, comparison)
    next_step = _next_step(comparison, job, published)
    out.result(
        comparison.model_dump(mode="json"),
        lambda console: show_comparison(console, comparison, files.output, next_step),
        missed,
    )
    random_weights.warn(out, thing, is_random=comparison.random_weights)
    if missed is not None:
        raise missed


def _require_accuracy(conditions: tuple[Condition, ...], job: ComparisonJob, text: str) -> None:
    from resx.zoo.catalog import kind_of

    has_images = job.images.data != NO_IMAGES and (job.images.data or kind_of(job.source.source) == "run")
    if not has_images and any(condition.figure == "accuracy" for condition in conditions):
        raise UsageError(f"--pick '{text}': no accuracy is measured without images; add --data")


def _settle(
    found: ComparedForms, job: ComparisonJob, conditions: tuple[Condition, ...], published: Repository, text: str
) -> tuple[ExportComparison, ResxError | None]:
    """Publish what is picked; return the result, and what is raised when it was printed."""
    from resx.bench.exports.conditions import pick
    from resx.repository.config_pbtxt import ServingOptions

    comparison = found.comparison
    if not comparison.measured:
        return comparison, found.first_error or ExportError(f"{job.text}: no form could be measured")
    if not conditions:
        return comparison, None
    try:
        chosen = pick(comparison.forms, conditions, text)
    except ObjectiveMissed as error:
        return comparison, error
    picked = export_comparison.publish_picked(found, job, published, ServingOptions(), chosen, text)
    return comparison.model_copy(update={"picked": picked}), None


def _write(folder: Path, comparison: ExportComparison) -> None:
    from resx.bench.exports.page import html
    from resx.files.staging import write_atomic

    write_atomic(folder / "compare.json", comparison.model_dump_json(indent=2) + "\n")
    write_atomic(folder / "compare.html", html(comparison))


def _next_step(comparison: ExportComparison, job: ComparisonJob, published: Repository) -> str:
    """Return the command that serves what was published, or exports the best form."""
    from resx.export.combinations import usual_runtime

    if comparison.picked is not None:
        return to_serve(comparison.picked.name, published, comparison.picked.version)
    best = next((form for form in comparison.forms if form.name == comparison.best), None)
    # Options that are not repeated here would make it another model.
    if best is None or job.asking.source != replace(SourceOptions(), weights=job.asking.source.weights):
        return ""
    words = [] if job.source.weights == "none" else ["--weights", job.source.weights]
    words += [] if best.precision == "fp32" else [f"--{best.precision}"]
    words += ["--calibrate", job.wishes.calibrate] if best.precision == "int8" and job.wishes.calibrate else []
    words += [] if best.runtime == usual_runtime(best.precision, "cpu") else ["--runtime", best.runtime]
    words += ["--seed", str(job.source.seed)] if job.source.seed else []
    return command_line("export", job.source.source, *words, *in_repository(published.root))
