"""`resx tune`."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_model
from resx.cli.marks import show_done
from resx.cli.options.connection import LoadConnection
from resx.cli.options.figure import Plot
from resx.cli.options.output import DryRun, TableOptions
from resx.cli.options.precision import Calibrate
from resx.cli.options.seed import Seed
from resx.cli.options.validation import choose, finite
from resx.cli.output import Output
from resx.cli.steps.tuning_candidates import read_wishes
from resx.cli.steps.tuning_search import TuningJob, TuningOutcome, search_settings
from resx.cli.views.next_step import to_apply
from resx.cli.views.tuning import ending, show_tuning
from resx.errors import MissingCapability, UsageError

if TYPE_CHECKING:
    from resx.cli.results.measurements import TuningUndone
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address

_search_option = partial(typer.Option, rich_help_panel="Search")


def tune(
    name: Annotated[str, typer.Argument(help="A model of the repository.", autocompletion=complete_model)],
    objective: Annotated[
        str,
        typer.Option(
            metavar="[balanced|throughput|latency]",
            help="throughput: most images per second; latency: fastest single requests; balanced: highest throughput "
            "with single requests within 1.2x of the fastest.",
        ),
    ] = "balanced",
    slo: Annotated[
        str,
        typer.Option(
            metavar="pNN=TIME",
            help=("Tune for the highest rate that meets this latency objective, such as p99=15ms."),
        ),
    ] = "",
    dry_run: DryRun = False,
    undo: Annotated[bool, typer.Option("--undo", metavar="", help="Undo the last tuning of the model.")] = False,
    runtimes: Annotated[
        str,
        _search_option(
            metavar="[onnxruntime|openvino],...",
            help="Runtimes to try; exports what is missing. Default: the versions'.",
        ),
    ] = "",
    precisions: Annotated[
        str,
        _search_option(
            metavar="[fp32|fp16|bf16|int8],...",
            help="Precisions to try; exports what is missing. Default: the versions'.",
        ),
    ] = "",
    calibrate: Calibrate = "",
    concurrency: Annotated[
        int, _search_option(min=1, metavar="N", help="In-flight requests when measuring throughput.")
    ] = 8,
    duration: Annotated[
        float, _search_option(callback=finite, metavar="SECONDS", help="Seconds of each load in the first round.")
    ] = 1.0,
    pairs: Annotated[int, _search_option(min=2, metavar="N", help="Paired runs of best against current.")] = 5,
    cores: Annotated[
        int, _search_option(min=0, metavar="N", help="CPU cores for the server. Default: this machine's.")
    ] = 0,
    client_elsewhere: Annotated[
        bool, _search_option("--client-elsewhere", metavar="", help="Estimate throughput with a remote client.")
    ] = False,
    *,
    server: LoadConnection,
    plot: Plot = None,
    printing: TableOptions,
    seed: Seed = 0,
) -> None:
    """Measure settings of a served model (runtime, precision, instances, batches), and deploy the best.

    Settings are tried on the running server under a name that no client knows. If the best one is significantly better
    than the current one, it is published as a version with the evidence in its card, and deployed.

    The measurements take minutes, with --dry-run too. Exit code 3 if no setting meets --slo.

    Examples: resx tune resnet50 --dry-run; resx tune resnet50 --runtimes onnxruntime,openvino --precisions fp32,bf16
    """
    from resx.bench.tuning.highest_rate import parse_slo
    from resx.bench.tuning.trials import Search
    from resx.card.tuning import OBJECTIVES
    from resx.figures import require_drawable
    from resx.repository.versions import Repository

    published, out = Repository(server.repository), printing.open()
    published.version_folder(name)
    address = server.address()
    if undo:
        _undo(out, address, published, name)
        return
    if not 0 < duration < float("inf"):
        raise UsageError(f"--duration {duration:g}: give a time above 0 s")
    if slo and (objective == "latency" or client_elsewhere):
        raise UsageError(
            f"--slo {slo}: searches for the highest rate, as it was measured; remove "
            f"{'--client-elsewhere' if client_elsewhere else f'--objective {objective}'}"
        )
    if plot is not None:
        require_drawable(plot)
    search = Search(
        objective=choose("--objective", objective, OBJECTIVES),
        concurrency=concurrency,
        cores=_cores(cores, address),
        client_elsewhere=client_elsewhere,
        duration_s=duration,
        num_pairs=pairs,
        seed=seed,
        slo=parse_slo(slo) if slo else None,
    )
    job = TuningJob(
        address=address,
        repository=published,
        name=name,
        search=search,
        wishes=read_wishes(runtimes, precisions, calibrate),
        dry_run=dry_run,
        plot=plot,
    )
    with published.stage() if job.wishes.names_some else contextlib.nullcontext(published.root) as scratch:
        found = search_settings(out, job, scratch)
        _show(out, job, found, server.command("bench", name))


def _cores(asked: int, address: Address) -> int:
    from resx.bench.results.result import is_local
    from resx.machine import usable_cores

    if not asked and not is_local(address):
        raise UsageError(f"--cores is missing: {address} is not this machine; give the number of cores it may use")
    if is_local(address) and asked > usable_cores():
        raise UsageError(f"--cores {asked}: this machine has {usable_cores()}; give at most that many")
    return asked or usable_cores()


def _show(out: Output, job: TuningJob, found: TuningOutcome, measure: str) -> None:
    """Print what was found; `measure` is the command that measures the model."""
    payload = found.evidence.model_dump(mode="json") | {
        "name": job.name,
        "better": found.better,
        "version": found.version or None,
    }
    end = ending(job.name, found.evidence, better=found.better, version=found.version)
    # The same search again, as nothing says what it found: the trials of a dry run are in no card.
    next_step = to_apply() if found.better and job.dry_run else measure
    out.result(payload, lambda console: show_tuning(console, found.evidence, end, next_step, str(job.plot or "")))


def _undo(out: Output, address: Address, repository: Repository, name: str) -> None:
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.tuned_configuration import take_back

    with TritonClient(address) as client:
        try:
            alive = client.is_live()
        except MissingCapability:
            alive = False
        gone, version = take_back(client if alive else None, repository, name)
    payload: TuningUndone = {"name": name, "removed": gone, "version": version, "deployed": alive}
    facts = [f"Undid the tuning of {name}", f"deleted v{gone}", f"the configuration is v{version}'s again"]
    out.result(payload, lambda console: show_done(console, *facts))
