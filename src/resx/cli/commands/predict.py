"""`resx predict`: score all images of a source, in this process, on a Ray cluster or through a server."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_model_version
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done
from resx.cli.options.grouping import typed_options
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.options.scoring import ScoresOptions, ScoringPlace, SourceColumns
from resx.cli.options.top import Top
from resx.cli.output import Output
from resx.cli.views import random_weights
from resx.cli.views.progress import show_bar
from resx.errors import MissingCapability, ResxError, ServerError
from resx.names import parse_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resx.scoring.run import ScoringEngine


def predict(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A published model, NAME or NAME:VERSION. Default: the newest version.",
            autocompletion=complete_model_version,
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a glob, a .txt with one path a line, a .parquet with a column of bytes, or a URI of these."
        ),
    ],
    columns: SourceColumns,
    place: ScoringPlace,
    scores: ScoresOptions,
    printing: OutputOptions,
    limits: ImageLimits,
    top: Top = 5,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
) -> None:
    """Classify every image in a folder, bucket or list and write a table; unreadable images get an error row.

    Example: resx predict resnet50 photos/ -o photos.parquet
    """
    from resx.files.listing import skipped_words
    from resx.scoring.parts import require_fresh
    from resx.scoring.run import WantedParts, require_packages
    from resx.scoring.run import predict as run
    from resx.scoring.sources.finding import find_source

    limits.apply()
    place.require_one(typed_options(context))
    scores.require_fitting()
    require_packages()
    out, output = printing.open(), scores.output
    if require_fresh(output, resume=scores.resume, overwrite=scores.overwrite):
        done_before = f"{output}: finished already; removed leftovers of the earlier run"
        out.result(
            {"out": str(output), "finished_already": True},
            lambda console: print_text(console, done_before),
        )
        return
    found = find_source(source, columns.column, columns.images_from)
    wanted = WantedParts(
        source=found,
        source_text=source,
        out=output,
        top=top,
        overwrite=scores.overwrite,
        ignore_times=scores.ignore_times,
        csv_safe=scores.csv_safe,
    )
    with _open(name, place, repository, out) as engine:
        if skipped := skipped_words(found.skipped, found.hidden):
            out.note(f"Skipped {skipped}")
        if found.unwatched:
            out.note(f"{found.unwatched:,} remote files in the list: too many to check; changes in them go unnoticed")
        try:
            with show_bar(out, "images", with_rate=True) as on_progress:
                done = run(engine, wanted, on_progress, out.note)
        except (KeyboardInterrupt, ServerError, MissingCapability):
            out.note(f"{output}: finished parts are kept; --resume continues")
            raise
    payload = asdict(done) | {
        "images_per_s": done.images_per_s,
        "skipped": sum(found.skipped.values()),
        "skipped_files": found.skipped,
        "hidden": found.hidden,
        "out": str(output),
        "finished_already": False,
        "model": engine.model.name,
        "version": engine.model.version,
        "random_weights": engine.model.interface.has_random_weights,
    }

    def show(console: Console) -> None:
        resumed = f", {done.rows - done.scored_rows:,} of them by an earlier run" if done.resumed_parts else ""
        show_done(
            console,
            f"Wrote {output}: {done.rows:,} rows{resumed}, {done.errors:,} with an error",
            f"{done.images_per_s:,.1f} images/s in {done.seconds:,.1f} s",
            good=done.errors < done.rows,
        )

    verdict = None
    if done.errors == done.rows:
        verdict = ResxError(f"{output}: all {done.rows:,} rows failed, the first with: {done.first_error}")
    out.result(payload, show, verdict)
    random_weights.warn(out, engine.model.name, is_random=engine.model.interface.has_random_weights)
    if verdict is not None:
        raise verdict


def _open(name: str, place: ScoringPlace, repository: Path, out: Output) -> AbstractContextManager[ScoringEngine]:
    """Return what computes; it is ready for use before the output is begun."""
    from resx.repository.versions import Repository
    from resx.scoring.in_process import find_model, require_runtime
    from resx.scoring.on_ray import on_ray
    from resx.scoring.ray_cluster import Pool
    from resx.scoring.run import InThisProcess
    from resx.scoring.through_server import find_served

    asked, models = parse_name(name), Repository(repository)
    if place.url:
        return contextlib.nullcontext(
            find_served(place.address(repository), *asked, in_flight=place.in_flight, retries=place.retries)
        )
    kind = place.kind()
    if place.ray:
        pool = Pool(address=place.ray, actors=place.ray_actors, cpus=place.ray_cpus, device=kind)
        return on_ray(find_model(models, *asked), pool, out.note)
    model = find_model(models, *asked)
    require_runtime(model, kind)
    return contextlib.nullcontext(InThisProcess(model, kind))
