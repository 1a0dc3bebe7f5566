"""`resx tune`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
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
from resx.cli.steps.tuning_candidates import FileWishes, published_candidates, read_wishes, wanted_candidates
from resx.cli.views.next_step import to_apply
from resx.cli.views.tuning import ending, show_tuning, trial_text
from resx.errors import MissingCapability, UsageError
from resx.files.reading import read_text

if TYPE_CHECKING:
    from resx.bench.tuning.trials import Search
    from resx.bench.tuning.tuning import TuningResult
    from resx.card.tuning import Tuning
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
    wishes = read_wishes(runtimes, precisions, calibrate)
    with published.stage() if wishes.names_some else contextlib.nullcontext(published.root) as scratch:
        measure = server.command("bench", name)
        _search(out, address, published, name, search, wishes, scratch, measure, dry_run=dry_run, plot=plot)


def _cores(asked: int, address: Address) -> int:
    from resx.bench.results.result import is_local
    from resx.machine import usable_cores

    if not asked and not is_local(address):
        raise UsageError(f"--cores is missing: {address} is not this machine; give the number of cores it may use")
    if is_local(address) and asked > usable_cores():
        raise UsageError(f"--cores {asked}: this machine has {usable_cores()}; give at most that many")
    return asked or usable_cores()


def _search(
    out: Output,
    address: Address,
    repository: Repository,
    name: str,
    search: Search,
    wishes: FileWishes,
    scratch: Path,
    measure: str,
    *,
    dry_run: bool,
    plot: Path | None,
) -> None:
    from resx.bench.tuning import tuning
    from resx.bench.tuning.chart import tuning_figure
    from resx.bench.tuning.trials import Bench
    from resx.figures import draw_figure
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.served_model import alone
    from resx.serving.deployment.tuned_configuration import put_in_force, setting_of

    config_before = _config(repository, name)
    with TritonClient(address) as client:
        loaded = client.model_versions().get(name, [])
        before = setting_of(repository, name, loaded[-1] if loaded else repository.versions(name)[-1])
        card = repository.card(name, before.version)
        with out.steps() as step:
            candidates = wanted_candidates(
                published_candidates(repository, name, before.version),
                before.version,
                wishes,
                scratch,
                on_step=step,
                on_left_out=out.note,
            )
        bench = Bench(
            client=client,
            address=address,
            repository=repository,
            name=name,
            before=before,
            search=search,
            candidates=candidates,
        )
        with out.live() as tell, alone(repository, name):
            found = tuning.tune(
                bench,
                card.max_batch_size,
                card.canary.num_images,
                on_trial=lambda place, setting: tell.begin(trial_text(place, setting, len(candidates))),
            )
        evidence = _evidence(search, found, config_before)
        if plot is not None:
            draw_figure(tuning_figure(name, evidence), plot)
        better, deployed = found.is_better(search.objective), None
        if better and not dry_run:
            with out.steps() as step:
                step("deploy the best setting")
                chosen = bench.candidate(found.best)
                deployed = put_in_force(client, repository, chosen, evidence, threads=found.threads_matter)
    payload = evidence.model_dump(mode="json") | {
        "name": name,
        "better": better,
        "version": deployed.version if deployed else None,
    }
    end = ending(name, evidence, better=better, version=deployed.version if deployed else 0)
    # The same search again, as nothing says what it found: the trials of a dry run are in no card.
    next_step = to_apply() if better and dry_run else measure
    out.result(payload, lambda console: show_tuning(console, evidence, end, next_step, str(plot or "")))


def _config(repository: Repository, name: str) -> str:
    from resx.card import card as cards
    from resx.repository import config_rules
    from resx.repository.config_pbtxt import CONFIG_FILE

    folder = repository.version_folder(name)
    if not (folder / cards.FILE_NAME).is_file() or not (repository.root / name / CONFIG_FILE).is_file():
        raise UsageError(f"{name}: has no card, so answers cannot be checked; export the model with resx")
    config_rules.read_checked(repository.root, name)
    return read_text(repository.root / name / CONFIG_FILE)


def _evidence(search: Search, found: TuningResult, config_before: str) -> Tuning:
    from resx.card.tuning import Tuning
    from resx.machine import processor

    return Tuning(
        objective=search.objective,
        concurrency=search.concurrency,
        cores=search.cores,
        client_elsewhere=search.client_elsewhere,
        slo=str(search.slo or ""),
        processor=processor(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["resx", *sys.argv[1:]]),
        before=found.before,
        config_before=config_before,
        chosen=found.best,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        num_pairs=found.num_pairs,
        trials=found.trials,
    )


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
