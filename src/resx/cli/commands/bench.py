"""`resx bench`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.shared import (
    Ca,
    Cert,
    Header,
    Json,
    Key,
    MaxFileMib,
    MaxMegapixels,
    Quiet,
    RepositoryPath,
    Seed,
    Shape,
    Url,
    choose,
    finite,
)
from resx.cli.output import Output
from resx.cli.views import random_weights
from resx.cli.views.bench_result import show_result
from resx.errors import ObjectiveMissed, ParityError, ResxError, UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from resx.bench.load.inputs import Inputs
    from resx.bench.load.wire import Target
    from resx.bench.result_files import ResultFiles
    from resx.bench.results.result import BenchResult
    from resx.cli.commands.bench_run import BenchAccess, BenchRequest

OUTPUT_HELP = "Also write the result to this file, as JSON."


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("bench")(bench)


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="A model that is loaded; NAME:VERSION for one version, NAME@URL on another server."),
    ] = None,
    concurrency: Annotated[
        str, typer.Option(help="Closed loop, requests in flight: a number, a list, or 1:16 (1, 2, 4, 8, 16).")
    ] = "",
    rate: Annotated[str, typer.Option(help="Open loop, requests a second that fall due: a number or a list.")] = "",
    slo: Annotated[str, typer.Option(help="Search for the highest rate that holds it, as p99=15ms.")] = "",
    scenario: Annotated[
        str,
        typer.Option(
            help="MLPerf's LoadGen: single-stream, multi-stream, server (with --rate and --slo p99=...) or offline."
        ),
    ] = "",
    loadgen_logs: Annotated[
        Path, typer.Option("--loadgen-logs", metavar="DIR", help="Where LoadGen writes its logs.")
    ] = Path("loadgen"),
    arrivals: Annotated[str, typer.Option(help="Of an open loop: poisson or constant.")] = "poisson",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images in a request.")] = 1,
    duration: Annotated[
        float | None, typer.Option(callback=finite, help="Seconds to measure, per load. Default: 10; 3 with --compare.")
    ] = None,
    warmup: Annotated[float, typer.Option(callback=finite, help="Seconds before that, not counted.")] = 2.0,
    timeout: Annotated[float, typer.Option(callback=finite, help="Seconds after which a request has failed.")] = 60.0,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Measure each load so often; --compare: pairs. Default: 1; 5 pairs.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Interleave the models; print ratios to the first.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE", help="Send the images of a folder, or the rows of a .npy array. Default: noise."
        ),
    ] = None,
    shape: Shape = None,
    check: Annotated[
        bool | None, typer.Option("--check/--no-check", help="Check a sample of the answers. Default: where possible.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Also run the version's file without the server: serving efficiency.")
    ] = False,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Let the server read inputs from shared memory.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes that send.")] = 1,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An earlier result (-o) to compare with.")
    ] = None,
    fail_above: Annotated[
        str, typer.Option("--fail-above", help="With --baseline: exit 3 if something is worse by more.")
    ] = "5%",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help=OUTPUT_HELP)] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="With perf_analyzer's columns.")] = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", metavar="FILE", help="Every request, JSON lines.")
    ] = None,
    hdr_log: Annotated[Path | None, typer.Option("--hdr-log", metavar="FILE", help="HDR histogram log.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="One HTML file with all charts.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a result, and end.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="http or grpc. Default: http, which costs the client less; grpc of a --url that is host:port.",
        ),
    ] = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    seed: Seed = 0,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency and throughput; n/a where the samples do not suffice for a percentile.

    In an open loop latency counts from when a request was due. queue and compute are Triton's own means per request;
    client is the load generator's CPU time per request. A sample of the answers is compared with what the version's
    card records.

    Examples: resx bench resnet50 --concurrency 1:16 --rate 5; resx bench resnet50 --rate 20,40 --report report.html;
    resx bench resnet50:1 resnet50:2 --compare
    """
    from resx.bench.load.inputs import ROWS_SUFFIX, Inputs
    from resx.bench.load.load_plan import ARRIVALS, LoadPlan, concurrencies, rates
    from resx.bench.result_files import ResultFiles
    from resx.bench.results import result as reports
    from resx.cli.commands.bench_run import BenchAccess, BenchRequest
    from resx.repository.versions import Repository

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    if schema:
        sys.stdout.write(reports.schema_text())
        return
    if not names:
        raise UsageError("NAME is missing: name a model that is loaded; `resx status` lists them")
    if slo and (concurrency or rate) and not scenario:
        raise UsageError(f"--slo {slo}: searches for the rate itself; leave --concurrency and --rate out")
    _require_fitting(
        names,
        slo=bool(slo),
        scenario=bool(scenario),
        compare=compare,
        in_process=in_process,
        baseline=baseline is not None,
        concurrency=bool(concurrency),
    )
    wanted = ResultFiles(json=output, csv=csv, samples=samples, hdr_log=hdr_log, html=report)
    wanted.require_writable()
    base = LoadPlan(
        concurrency=1,
        arrivals=choose("--arrivals", arrivals, ARRIVALS),
        batch_size=batch_size,
        duration_s=duration if duration is not None else (3.0 if compare else 10.0),
        warmup_s=warmup,
        timeout_s=timeout,
        seed=seed,
    )
    closed = concurrency or ("" if rate else "8" if compare else "1,4,8")
    counts, rates_per_s = concurrencies(closed) if closed else [], rates(rate) if rate else []
    plans = [replace(base, concurrency=count, processes=processes) for count in counts]
    plans += [replace(base, concurrency=0, rate_per_s=value, processes=processes) for value in rates_per_s]
    if compare and len(plans) != 1:
        raise UsageError("--compare: takes one load; give one --concurrency or one --rate")
    old = reports.read_result(baseline) if baseline else None
    from resx.bench.comparing import share_of, tell_apart

    share = share_of(fail_above)
    access = BenchAccess(
        repository=Repository(repository),
        url=url,
        protocol=protocol,
        ca=ca,
        cert=cert,
        key=key,
        headers=tuple(header or ()),
    )
    out = Output(as_json=json, quiet=quiet)
    folder = None if data is None or data.suffix == ROWS_SUFFIX else data
    job = BenchRequest(
        targets=tell_apart(_targets(names, access, Inputs.read(shape or [], data))),
        plans=plans,
        slo=slo,
        compare=compare,
        repeat=repeat or (5 if compare else 1),
        data=folder,
        check=check,
        in_process=in_process,
        shared_memory=shared_memory,
        repository=access.repository,
        out=out,
        keep_samples=samples is not None,
    )
    if scenario:
        _run_scenario(job, scenario, loadgen_logs, slo, wanted)
        return
    result = job.run()
    written = job.write(wanted, result)
    show_result(out, result)
    for target in job.targets:
        random_weights.warn(out, target.model, is_random=target.interface.has_random_weights)
    for path in written:
        out.note(f"written: {path}")
    if job.interrupted:
        raise KeyboardInterrupt
    _judge(result, old, share)


def _targets(names: list[str], access: BenchAccess, inputs: Inputs) -> list[Target]:
    """Ask for all models, and refuse a shape that none of them has an input for."""
    from resx.cli.commands.bench_run import target_of

    found = [target_of(name, access, inputs) for name in names]
    inputs.require_used({target.model: target.interface for target in found})
    return found


def _require_fitting(
    names: list[str], *, slo: bool, scenario: bool, compare: bool, in_process: bool, baseline: bool, concurrency: bool
) -> None:
    """Raise UsageError if an option would be ignored beside another."""
    if compare and (len(names) < 2 or slo):
        raise UsageError("--compare: needs two models or more, as NAME:1 NAME:2, and one load; leave --slo out")
    if slo and not scenario and len(names) > 1:
        raise UsageError(f"--slo: searches for one model, {len(names)} are named; run it once for each")
    if in_process and (compare or slo):
        raise UsageError("--in-process: goes beside --concurrency or --rate; leave --compare and --slo out")
    if baseline and (slo or scenario):
        raise UsageError("--baseline: compares --concurrency or --rate; leave --slo and --scenario out")
    if scenario and concurrency:
        raise UsageError("--scenario: LoadGen decides what is in flight; leave --concurrency out")


def _run_scenario(job: BenchRequest, name: str, logs: Path, slo: str, wanted: ResultFiles) -> None:
    """Run LoadGen, print and write what it says.

    Raises:
        UsageError: the options do not go with the scenario.
        ParityError: answers are wrong.
        ObjectiveMissed: the latency bound was missed.
        ResxError: the run is not valid for another reason.
    """
    from resx.bench.tuning.highest_rate import parse_slo
    from resx.cli.views.bench_result import show_scenario
    from resx.files.staging import write_atomic

    if len(job.targets) > 1 or job.compare or job.in_process or job.shared_memory or job.repeat > 1:
        raise UsageError("--scenario: takes one model, without --compare, --repeat, --in-process and --shared-memory")
    if any((wanted.csv, wanted.samples, wanted.hdr_log, wanted.html)):
        raise UsageError("--scenario: LoadGen writes its own logs (--loadgen-logs); of the files only -o goes with it")
    bound = parse_slo(slo) if slo else None
    if bound is not None and bound.percent != 99:
        raise UsageError(f"--slo {slo}: LoadGen's server scenario is run for the 99th percentile; give p99=...")
    result = job.run_scenario(name, logs, bound.bound_ms if bound else 0.0)
    if wanted.json:
        write_atomic(wanted.json, result.model_dump_json(indent=2) + "\n")
    show_scenario(job.out, result)
    if result.answers.wrong:
        raise ParityError(f"INVALID: {result.reasons[-1]}")
    if result.latency_bound_met is False and not result.errors:
        raise ObjectiveMissed(f"--slo {slo}: {result.reasons[0]}")
    if not result.valid:
        raise ResxError(f"INVALID: {result.reasons[0]}")


def _judge(result: BenchResult, old: BenchResult | None, share: float) -> None:
    """End as the result deserves.

    Raises:
        KeyboardInterrupt: it was interrupted; what there was has been printed.
        ParityError: answers are wrong.
        ObjectiveMissed: something is worse than the baseline, or no rate holds --slo.
        ResxError: requests failed, or the figures must not be used.
    """
    from resx.bench.results.response_cache import why_unusable

    measurements = result.measurements
    if any("Ctrl-C" in reason for measured in measurements for reason in measured.invalid):
        raise KeyboardInterrupt
    wrong = [measured for measured in measurements if measured.answers.wrong]
    if wrong:
        raise ParityError(
            f"{wrong[0].target}: {wrong[0].invalid[0]}; `resx verify {wrong[0].model} --served` says more"
        )
    if cached := next(filter(None, (why_unusable(measured.cached_share) for measured in measurements)), ""):
        raise ResxError(f"INVALID: {cached}")
    if result.slo:  # a search goes beyond what client and server can do, on purpose
        _judge_search(result)
        return
    failed = sum(measured.failed for measured in measurements)
    if failed:
        sent = sum(measured.sent for measured in measurements)
        reason = next(message for measured in measurements for message in measured.errors)
        raise ResxError(f"{failed} of {sent} requests failed: {reason}")
    invalid = [measured for measured in measurements if measured.invalid]
    if invalid:
        raise ResxError(f"INVALID at {invalid[0].title}: {invalid[0].invalid[0]}")
    if old is not None:
        from resx.bench.comparing import regressions

        worse = regressions(result, old, share)
        if worse:
            raise ObjectiveMissed(f"worse than the baseline by more than {share:.0%}: {'; '.join(worse)}")


def _judge_search(result: BenchResult) -> None:
    """Raise ObjectiveMissed if no rate was found that holds the objective, with the reason."""
    assert result.slo is not None
    if result.slo["rate_per_s"] is not None:
        return
    raise ObjectiveMissed(f"--slo {result.slo['asked']}: no rate holds it; {result.slo['why']}")
