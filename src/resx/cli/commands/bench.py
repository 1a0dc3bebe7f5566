"""`resx bench`."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_model_version
from resx.cli.options.bench_files import BenchFiles
from resx.cli.options.connection import LoadConnection
from resx.cli.options.grouping import rare_option
from resx.cli.options.images import ImageLimits
from resx.cli.options.load import InputOptions, LoadOptions, StudyOptions
from resx.cli.options.output import TableOptions
from resx.cli.options.seed import Seed
from resx.cli.views import random_weights
from resx.cli.views.bench_result import show_result, show_scenario
from resx.errors import ObjectiveMissed, ParityError, ResxError, UsageError

if TYPE_CHECKING:
    from resx.bench.load.inputs import Inputs
    from resx.bench.load.wire import Target
    from resx.bench.loadgen import ScenarioResult
    from resx.bench.result_files import ResultFiles
    from resx.bench.results.result import BenchResult
    from resx.cli.steps.bench_run import BenchRequest


def bench(
    load: LoadOptions,
    study: StudyOptions,
    sent: InputOptions,
    server: LoadConnection,
    files: BenchFiles,
    printing: TableOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="A loaded model; NAME:VERSION for one version, NAME@URL on another server.",
            autocompletion=complete_model_version,
        ),
    ] = None,
    seed: Seed = 0,
    schema: Annotated[
        bool, rare_option("--schema", metavar="", help="Print the JSON schema of a result and exit.")
    ] = False,
    *,
    limits: ImageLimits,
) -> None:
    """Measure the latency and throughput of served models under load, in a closed loop or at a rate.

    In an open loop (--rate), latency counts from the time a request was due. queue and compute are Triton's own means
    per request; client and server ms are CPU time per request. n/a: too few samples for a percentile. A sample of the
    answers is checked against the logits in the version's card.

    Examples: resx bench resnet50 --concurrency 1:16 --rate 5; resx bench resnet50 --rate 20,40 --report report.html;
    resx bench resnet50:1 resnet50:2 --compare
    """
    from resx.bench.comparing import share_of, tell_apart
    from resx.bench.load.inputs import ROWS_SUFFIX, Inputs
    from resx.bench.results import result as reports
    from resx.cli.steps.bench_run import BenchRequest
    from resx.repository.versions import Repository

    limits.apply()
    if schema:
        sys.stdout.write(reports.schema_text())
        return
    if not names:
        raise UsageError("NAME is missing: name a model that is loaded; `resx status` lists them")
    _require_fitting(names, load, study, in_process=sent.in_process)
    wanted = files.wanted()
    plans = load.plans(compare=study.compare, seed=seed)
    old = reports.read_result(study.baseline) if study.baseline else None
    share = share_of(study.fail_above)
    out = printing.open()
    job = BenchRequest(
        targets=tell_apart(_targets(names, server, Inputs.read(sent.shape or [], sent.data))),
        plans=plans,
        slo=study.slo,
        compare=study.compare,
        repeat=load.repeat or (5 if study.compare else 1),
        data=None if sent.data is None or sent.data.suffix == ROWS_SUFFIX else sent.data,
        check=sent.check,
        in_process=sent.in_process,
        shared_memory=sent.shared_memory,
        repository=Repository(server.repository),
        out=out,
        keep_samples=files.samples is not None,
    )
    if study.scenario:
        _run_scenario(job, study, wanted)
        return
    result = job.run()
    for path in job.write(wanted, result):
        out.note(f"wrote {path}")
    verdict = KeyboardInterrupt() if job.interrupted else _verdict(result, old, share)
    show_result(out, result, _next_step(job, names, server), verdict)
    for target in job.targets:
        random_weights.warn(out, target.model, is_random=target.interface.has_random_weights)
    if verdict is not None:
        raise verdict


def _next_step(job: BenchRequest, names: list[str], server: LoadConnection) -> str:
    """Return what one may do with the figures: look for a better setting, where the model's card is here."""
    from resx.bench.results.result import is_local

    target, _, elsewhere = names[0].partition("@")
    asked = job.targets[0].owner or job.targets[0]
    if len(names) == 1 and ":" not in target and is_local(asked.address):
        with contextlib.suppress(UsageError):
            if job.repository.has_card(asked.model, asked.answering):
                return server.command("tune", asked.model, "--dry-run", url=elsewhere)
    return server.command("status", url=elsewhere)


def _targets(names: list[str], server: LoadConnection, inputs: Inputs) -> list[Target]:
    """Ask for all models, and refuse a shape that none of them has an input for."""
    from resx.cli.steps.bench_run import target_of

    found = [target_of(name, server, inputs) for name in names]
    inputs.require_used({target.model: target.interface for target in found})
    return found


def _require_fitting(names: list[str], load: LoadOptions, study: StudyOptions, *, in_process: bool) -> None:
    """Raise UsageError if an option would be ignored beside another."""
    slo, scenario = study.slo, study.scenario
    if slo and (load.concurrency or load.rate) and not scenario:
        raise UsageError(f"--slo {slo}: searches for the rate itself; remove --concurrency and --rate")
    if study.compare and (len(names) < 2 or slo):
        raise UsageError("--compare: needs two models or more, as NAME:1 NAME:2, and one load; remove --slo")
    if slo and not scenario and len(names) > 1:
        raise UsageError(f"--slo: searches for one model, {len(names)} are given; run it once per model")
    if in_process and (study.compare or slo):
        raise UsageError("--in-process: needs --concurrency or --rate; remove --compare and --slo")
    if study.baseline is not None and (slo or scenario):
        raise UsageError("--baseline: needs --concurrency or --rate; remove --slo and --scenario")
    if scenario and load.concurrency:
        raise UsageError("--scenario: LoadGen controls the concurrency; remove --concurrency")


def _run_scenario(job: BenchRequest, study: StudyOptions, wanted: ResultFiles) -> None:
    """Run LoadGen, print and write what it says.

    Raises:
        UsageError: the options do not go with the scenario.
        ParityError: answers are wrong.
        ObjectiveMissed: the latency bound was missed.
        ResxError: the run is not valid for another reason.
    """
    from resx.bench.tuning.highest_rate import parse_slo
    from resx.files.staging import write_atomic

    if len(job.targets) > 1 or job.compare or job.in_process or job.shared_memory or job.repeat > 1:
        raise UsageError("--scenario: takes one model, without --compare, --repeat, --in-process and --shared-memory")
    if any((wanted.csv, wanted.samples, wanted.hdr_log, wanted.html)):
        raise UsageError("--scenario: LoadGen writes its own logs (--loadgen-logs); only -o can be combined with it")
    slo = study.slo
    bound = parse_slo(slo) if slo else None
    if bound is not None and bound.percent != 99:
        raise UsageError(f"--slo {slo}: LoadGen's server scenario is run for the 99th percentile; give p99=...")
    result = job.run_scenario(study.scenario, study.loadgen_logs, bound.bound_ms if bound else 0.0)
    if wanted.json:
        write_atomic(wanted.json, result.model_dump_json(indent=2) + "\n")
    verdict = _scenario_verdict(result, slo)
    show_scenario(job.out, result, verdict)
    if verdict is not None:
        raise verdict


def _scenario_verdict(result: ScenarioResult, slo: str) -> ResxError | None:
    """Return the error that a run of LoadGen ends with."""
    if result.answers.wrong:
        return ParityError(f"INVALID: {result.reasons[-1]}")
    if result.latency_bound_met is False and not result.errors:
        return ObjectiveMissed(f"--slo {slo}: {result.reasons[0]}")
    return None if result.valid else ResxError(f"INVALID: {result.reasons[0]}")


def _verdict(result: BenchResult, old: BenchResult | None, share: float) -> ResxError | KeyboardInterrupt | None:
    """Return what the command ends with; the result is printed first."""
    from resx.bench.judging import judge

    try:
        judge(result, old, share)
    except (ResxError, KeyboardInterrupt) as ending:
        return ending
    return None
