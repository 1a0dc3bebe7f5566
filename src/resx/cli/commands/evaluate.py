"""`resx evaluate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from resx.cli.command_lines import command_line, in_repository
from resx.cli.completion import complete_thing
from resx.cli.options.connection import Connection, Retries
from resx.cli.options.evaluation import EvaluationOutput, ImagesWanted
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.seed import Seed
from resx.cli.options.source import SourceOptions
from resx.cli.steps.evaluated_models import Asking
from resx.cli.steps.evaluation_run import evaluate_and_compare
from resx.cli.views import random_weights
from resx.cli.views.evaluation import evaluation_as_json, show_evaluation
from resx.cli.views.next_step import to_serve
from resx.names import parse_name


def evaluate(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="THING",
            help="A run, a variant, an .onnx file, or a published model (NAME or NAME:VERSION); with --url a served "
            "one.",
            autocompletion=complete_thing,
        ),
    ],
    from_source: SourceOptions,
    wanted: ImagesWanted,
    server: Connection,
    files: EvaluationOutput,
    printing: TableOptions,
    limits: ImageLimits,
    against: Annotated[
        str, typer.Option(metavar="OTHER", help="Compare with another model on the same images, image by image.")
    ] = "",
    retries: Retries = 8,
    seed: Seed = 0,
) -> None:
    """Measure a classifier on labeled images: accuracy, precision and recall by class, confusions, calibration.

    Every figure has a 95% interval. Classes are matched by name. --against adds McNemar's exact test and lists the
    images with different answers.

    Example: resx evaluate runs/digits --against digits -o report.html
    """
    limits.apply()
    wanted.asked()
    files.require_writable()
    asking = Asking(source=from_source, server=server, retries=retries, seed=seed)
    out = printing.open()
    found = evaluate_and_compare((thing, *([against] if against else [])), asking, wanted, files.page, out)
    out.result(
        evaluation_as_json(found),
        lambda console: show_evaluation(
            console,
            found,
            every_class=files.every_class,
            page=files.page,
            next_step=_next_step(thing, found.evaluations[0].kind, asking),
        ),
    )
    for one in found.evaluations:
        random_weights.warn(out, one.model, is_random=one.random_weights)


def _next_step(thing: str, kind: str, asking: Asking) -> str:
    """Return the command that brings the model nearer to production; empty where options of its source are needed."""
    from resx.repository.versions import Repository

    server = asking.server
    if kind == "served":
        return server.command("bench", thing)
    if kind == "version":
        name, version = parse_name(thing)
        return to_serve(name, Repository(server.repository), version)
    if asking.source != replace(SourceOptions(), weights=asking.source.weights):
        return ""
    weights = ["--weights", asking.source.weights] if asking.source.weights != SourceOptions().weights else []
    return command_line("export", thing, *weights, *in_repository(server.repository))
