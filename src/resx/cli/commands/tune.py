"""`resx tune`."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.shared import Ca, Cert, Header, Json, Key, Quiet, RepositoryPath, Seed, Url, choose, finite
from resx.cli.output import Output, print_lines, table
from resx.errors import MissingCapability, UsageError
from resx.files.reading import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from resx.bench.tuning.tuning import Search, TuningResult
    from resx.card.tuning import Setting, Tuning
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("tune")(tune)


def tune(
    name: Annotated[str, typer.Argument(help="A model of the repository.")],
    objective: Annotated[str, typer.Option(help="throughput, or latency (of single requests).")] = "throughput",
    slo: Annotated[
        str, typer.Option(help="For the highest rate that holds this, as p99=15ms. Default: for most images a second.")
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight where throughput is measured.")] = 8,
    duration: Annotated[float, typer.Option(callback=finite, help="Seconds of each load in the first round.")] = 1.0,
    pairs: Annotated[int, typer.Option(min=2, help="Of the best setting and the one in force, in the end.")] = 5,
    cores: Annotated[int, typer.Option(min=0, help="That the server may use. Default: this machine's.")] = 0,
    client_elsewhere: Annotated[
        bool, typer.Option("--client-elsewhere", help="Leave the client's processor time out of the account.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print; change nothing.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the settings' front into a png, svg or pdf.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last tuning of the model back.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: Annotated[str, typer.Option("--protocol", help="Of the load: http or grpc. Default: http.")] = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find instances, threads, spinning, batches, delay and precision by measurement on the running server.

    Settings are tried under a name that no client knows. If the best one is surely better than the one in force, it is
    published as a version with the evidence in its card, and deployed. Precisions are the model's versions.

    Exit code 3 if no setting holds --slo.

    Example: resx tune resnet50 --dry-run
    """
    from resx.bench.report.figure_file import require_drawable
    from resx.bench.tuning.highest_rate import parse_slo
    from resx.bench.tuning.tuning import Search
    from resx.card.tuning import OBJECTIVES
    from resx.cli.options.connection import address_of
    from resx.repository.versions import Repository

    published, out = Repository(repository), Output(as_json=json, quiet=quiet)
    published.version_folder(name)
    address = address_of(url, protocol or ("" if url else "http"), published, ca=ca, cert=cert, key=key, headers=header)
    if undo:
        _undo(out, address, published, name)
        return
    if not 0 < duration < float("inf"):
        raise UsageError(f"--duration {duration:g}: give a time above 0 s")
    if slo and (objective != "throughput" or client_elsewhere):
        raise UsageError(
            f"--slo {slo}: searches for the highest rate, as it was measured; leave out "
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
    _search(out, address, published, name, search, dry_run=dry_run, plot=plot)


def _cores(asked: int, address: Address) -> int:
    from resx.bench.results.result import is_local
    from resx.machine import usable_cores

    if not asked and not is_local(address):
        raise UsageError(f"--cores is missing: {address} is not this machine; say how many cores it may use")
    if is_local(address) and asked > usable_cores():
        raise UsageError(f"--cores {asked}: this machine has {usable_cores()}; give them at most")
    return asked or usable_cores()


def _search(
    out: Output,
    address: Address,
    repository: Repository,
    name: str,
    search: Search,
    *,
    dry_run: bool,
    plot: Path | None,
) -> None:
    from resx.bench.tuning import tuning
    from resx.bench.tuning.chart import draw
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.served_model import alone
    from resx.serving.deployment.tuned_configuration import put_in_force, setting_of

    config_before = _config(repository, name)
    with TritonClient(address) as client:
        loaded = client.model_versions().get(name, [])
        before = setting_of(repository, name, loaded[-1] if loaded else repository.versions(name)[-1])
        card = repository.card(name, before.version)
        bench = tuning.Bench(
            client=client, address=address, repository=repository, name=name, before=before, search=search
        )
        with out.live() as tell, alone(repository, name):
            found = tuning.tune(
                bench,
                _versions(repository, name, before.version),
                card.max_batch_size,
                card.canary.num_images,
                on_trial=lambda stage, setting: tell.begin(f"{stage}: {words(setting)}"),
            )
        evidence = _evidence(search, found, config_before)
        if plot is not None:
            draw(name, evidence, plot)
        better, deployed = found.is_better(search.objective), None
        if better and not dry_run:
            with out.steps() as step:
                step("deploy it")
                deployed = put_in_force(client, repository, name, evidence, threads=found.threads_matter)
    payload = evidence.model_dump(mode="json") | {
        "name": name,
        "better": better,
        "version": deployed.version if deployed else None,
    }
    end = [_ending(name, better, dry_run, deployed.version if deployed else 0)]
    if plot is not None:
        end.append(f"wrote {plot}")
    out.result(payload, lambda console: _show(console, evidence, end))


def _config(repository: Repository, name: str) -> str:
    from resx.card import card as cards
    from resx.repository import config_rules
    from resx.repository.config_pbtxt import CONFIG_FILE

    folder = repository.version_folder(name)
    if not (folder / cards.FILE_NAME).is_file() or not (repository.root / name / CONFIG_FILE).is_file():
        raise UsageError(f"{name}: has no card, so answers could not be checked; `resx export` makes models with cards")
    config_rules.read_checked(repository.root, name)
    return read_text(repository.root / name / CONFIG_FILE)


def _versions(repository: Repository, name: str, answering: int) -> list[int]:
    """Return the version that answers, and the newest verified one of each other precision, of the same weights."""
    source = repository.card(name, answering).source.weights_sha256
    found = {repository.card(name, answering).precision: answering}
    for version in reversed(repository.versions(name)):
        card = repository.card(name, version)
        if card.verified and card.source.weights_sha256 == source:
            found.setdefault(card.precision, version)
    return sorted(found.values())


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


def words(setting: Setting) -> str:
    """Return a setting in one line."""
    threads = f"{setting.instances} x {setting.threads or 'auto'}{' spinning' if setting.spinning else ''}"
    batch = f", batches of {setting.max_batch}, delay {setting.delay_us} us" if setting.max_batch else ""
    return f"version {setting.version}, {threads}{batch}"


def _ending(name: str, better: bool, dry_run: bool, version: int) -> str:
    if not better:
        return "no setting is surely better than the one in force; nothing was changed"
    if dry_run:
        return "--dry-run: nothing was changed"
    return f"{name} version {version} answers with it; `resx tune {name} --undo` takes it back"


def _show(console: Console, tuning: Tuning, end: Sequence[str]) -> None:
    from resx.bench.tuning.tuning import front, latest

    best = front(tuning.trials)
    rows = [
        [
            words(trial.setting),
            f"{trial.images_per_s:.1f}",
            _ms(trial.p50_ms),
            _ms(trial.p99_ms),
            _ms(trial.single_ms),
            "*" if trial in best else trial.invalid[:40],
        ]
        for trial in sorted(latest(tuning.trials), key=lambda trial: -trial.images_per_s)
    ]
    throughput = f"images/s at {tuning.slo}" if tuning.slo else "images/s"
    columns = ["setting", throughput, "p50 ms", "p99 ms", "single ms", "front"]
    console.print(table("", columns, rows))
    console.print("front, *: no other setting is better in both images/s and single ms", markup=False)
    if tuning.num_pairs > 1:
        console.print(_compare(tuning), markup=False, soft_wrap=True)
    print_lines(console, end)


def _compare(tuning: Tuning) -> str:
    both = f"{words(tuning.chosen)} / {words(tuning.before)}"
    if tuning.ratio is None:
        return f"{both}: the latter holds {tuning.slo} at no rate, in {tuning.num_pairs} pairs"
    what = "images/s" if tuning.objective == "throughput" else "single ms"
    return f"{both}, {what}: {tuning.ratio:.3f} (95 %: {tuning.low:.3f} to {tuning.high:.3f}, {tuning.num_pairs} pairs)"


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _undo(out: Output, address: Address, repository: Repository, name: str) -> None:
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.tuned_configuration import take_back

    with TritonClient(address) as client:
        try:
            alive = client.is_live()
        except MissingCapability:
            alive = False
        gone, version = take_back(client if alive else None, repository, name)
    payload = {"name": name, "removed": gone, "version": version, "deployed": alive}
    line = f"{name} version {gone} is gone, and the configuration is the one from before, of version {version}"
    out.result(payload, lambda console: console.print(line, markup=False, soft_wrap=True))
