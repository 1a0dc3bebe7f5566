"""`resx profile`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from resx.cli.command_lines import typed_again
from resx.cli.completion import complete_thing
from resx.cli.options.figure import Plot
from resx.cli.options.grouping import output_option, rare_option
from resx.cli.options.output import TableOptions
from resx.cli.options.profiling import Profiling
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.steps.profiled_model import find_subject
from resx.cli.views.profile import show_profile
from resx.cli.views.progress import show_bar
from resx.errors import UsageError


def profile(
    profiling: Profiling,
    thing: Annotated[
        str,
        typer.Argument(
            metavar="THING",
            help="A model, NAME or NAME:VERSION; an .onnx file; a run or a variant.",
            autocompletion=complete_thing,
        ),
    ] = "",
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    every: Annotated[
        bool, output_option("--all", metavar="", help="Show every layer and block, in the network's order.")
    ] = False,
    plot: Plot = None,
    *,
    printing: TableOptions,
    schema: Annotated[
        bool, rare_option("--schema", metavar="", help="Print the JSON schema of a profile and exit.")
    ] = False,
) -> None:
    """Show where a model's time goes, by layer and block, and how near it comes to this machine's peak.

    Times are the runtime's own counters. The peak is what a matrix product reaches in the same runtime and precision,
    with the same threads. Runs and variants are exported in fp32 for it.

    Example: resx profile resnet50 --plot resnet50.png
    """
    from resx.bench.report.profile_chart import profile_figure
    from resx.figures import draw_figure, require_drawable
    from resx.repository.versions import Repository
    from resx.runtimes.profiling.profile import schema_text
    from resx.runtimes.profiling.profiling import profile_model

    if schema:
        sys.stdout.write(schema_text())
        return
    if not thing:
        raise UsageError("THING is missing: name a model, an .onnx file, a run's folder or a variant")
    if plot is not None:
        require_drawable(plot)
    out = printing.open()
    with out.steps() as step:
        subject, options = find_subject(thing, Repository(repository), profiling, step)
    with show_bar(out, "rounds") as on_round:
        found = profile_model(subject, options, on_round=on_round)
    if plot is not None:
        draw_figure(profile_figure(found), plot)
    next_step = "" if every else typed_again("--all")
    out.result(
        found.model_dump(mode="json"),
        lambda console: show_profile(console, found, every=every, plot=plot, next_step=next_step),
    )
