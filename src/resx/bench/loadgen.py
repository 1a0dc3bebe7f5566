"""MLPerf's scenarios against a served model, by MLPerf's own load generator.

    SingleStream   one sample at a time, the next when it was answered
    MultiStream    eight samples at a time, the next when all were answered
    Server         one sample at a time, due at random and independently (a Poisson process), latency from when due
    Offline        all samples at once, sent in batches

LoadGen makes the queries, times them and judges the run; what it says is reported in its words. It knows nothing of
a request that failed: those are counted here, and make a run invalid.

Source: github.com/mlcommons/inference, loadgen/; Reddi et al., MLPerf Inference Benchmark, ISCA 2020.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from resx.bench.load import wire
from resx.bench.load.http_loop import DESCRIPTORS_LEFT
from resx.bench.load.load_task import DRAIN_S, LoadTask
from resx.bench.load.loadgen_process import SAMPLES_PER_QUERY, Finished, Job, run
from resx.bench.load.payloads import Payloads
from resx.bench.load.scenario_plan import Scenario, ScenarioPlan
from resx.bench.results.response_cache import cached_share, models_with_cache, read_counts, why_unusable
from resx.bench.results.result import Answers
from resx.bench.results.right_answers import compare_answers
from resx.bench.results.samples import Percentiles, merge, percentiles
from resx.bench.subprocess_run import run_apart
from resx.errors import MissingCapability, ResxError, UsageError
from resx.machine import lacks_open_files
from resx.serving.client.client import TritonClient
from resx.values import FrozenModel

SCENARIOS: dict[str, Scenario] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
"""As they are typed, and as LoadGen writes them."""
SUMMARY_FILE, DETAIL_FILE = "mlperf_log_summary.txt", "mlperf_log_detail.txt"
MLPERF_LEAST_S = 600.0
"""What MLPerf's rules for submissions ask of a run, whatever LoadGen was told."""
_LINE = ":::MLLOG "
_START_S = 120.0
_CHECKED_SHARE = 32
"""Answers that are compared with the reference at most."""


class ScenarioResult(FrozenModel):
    """One run of LoadGen. Times are LoadGen's own; None where the scenario has none."""

    scenario: Scenario
    valid: bool
    """LoadGen calls it valid, no request failed and no checked answer was wrong."""
    loadgen_valid: bool
    """LoadGen's verdict alone."""
    reasons: tuple[str, ...]
    """Why it is not valid: LoadGen's words, then what it cannot know."""
    remarks: tuple[str, ...]
    model: str
    version: int | None
    loadgen_version: str
    duration_s: float
    """Least duration of the LoadGen run."""
    rate_per_s: float
    """Asked for in the Server scenario; 0 elsewhere."""
    latency_bound_ms: float
    """Bound on the 99th percentile in the Server scenario; 0 in others."""
    batch_size: int
    samples_per_query: int
    connections: int
    num_queries: int
    num_samples: int
    samples_per_s: float | None
    """Completed; None in MultiStream, of which LoadGen says latencies only."""
    scheduled_per_s: float | None
    """Server: at which samples fell due."""
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p97_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    """Of samples; in MultiStream of queries; in Offline from the beginning of the test."""
    num_over_bound: int | None
    """Server: queries that took longer than the bound."""
    latency_bound_met: bool | None
    min_duration_met: bool
    min_queries_met: bool
    early_stopping_met: bool
    """Whether there were enough queries for the verdict to mean anything, by LoadGen's statistics."""
    early_stopping: str
    lines: tuple[str, ...]
    """The results as LoadGen's summary has them."""
    service: Percentiles
    """Latency from when a request was sent."""
    errors: dict[str, int]
    answers: Answers
    client_cpu_ms_per_request: float | None
    """CPU time of LoadGen and the requests together."""
    summary: str
    detail: str
    """Paths of LoadGen's logs."""


def require_loadgen() -> None:
    """Raise MissingCapability unless LoadGen is installed."""
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingCapability("MLPerf's LoadGen is not installed; pip install 'resx[loadgen]'")


def run_scenario(target: wire.Target, plan: ScenarioPlan, payloads: Payloads) -> ScenarioResult:
    """Run one scenario in performance mode.

    Args:
        target: a model, over HTTP.
        plan: the scenario.
        payloads: tensors of one batch size: 1 in SingleStream and Server, whose queries are single samples. Elsewhere
            a request answers that many samples, the last one perhaps fewer.

    Raises:
        MissingCapability: LoadGen is not installed.
        UsageError: the scenario does not go with the options, or the folder cannot be written.
        ResxError: the first requests failed, or LoadGen ended; the reason.
    """
    require_loadgen()
    _require(target, plan, payloads.num_rows)
    _require_writable(plan.log_folder)
    job = Job(plan=plan, task=_task(target, plan, payloads), batch_size=payloads.num_rows)
    most_s = _START_S + plan.warmup_s + 3 * plan.duration_s + DRAIN_S + 2 * plan.timeout_s
    with TritonClient(target.address) as client:
        cached_models = models_with_cache(client, target.model)
        before = read_counts(client, cached_models)
        finished = run_apart(run, job, Finished, f"{target.model}: {plan.scenario}", most_s)
        cached = why_unusable(cached_share(before, read_counts(client, cached_models)))
    return _result(target, job, payloads, finished, cached)


def _task(target: wire.Target, plan: ScenarioPlan, payloads: Payloads) -> LoadTask:
    return LoadTask(
        protocol="http",
        host_port=target.address.host_port,
        requests=wire.requests(target, payloads.tensors),
        tls=target.address.tls,
        concurrency=plan.connections,
        timeout_s=plan.timeout_s,
        rate_per_s=plan.target_rate_per_s,
    )


def _require(target: wire.Target, plan: ScenarioPlan, batch_size: int) -> None:
    if target.address.protocol != "http":
        raise UsageError(f"{target.address}: LoadGen needs HTTP; give --protocol http and the HTTP port")
    if plan.scenario in ("SingleStream", "Server") and batch_size != 1:
        raise UsageError(
            f"batch_size={batch_size}: {plan.scenario} sends single samples; give --batch-size 1, or use offline"
        )
    if not 0 < plan.duration_s < float("inf"):
        raise UsageError(f"duration_s={plan.duration_s}: give a time above 0 s")
    if plan.scenario == "Server" and not 0 < plan.rate_per_s < float("inf"):
        raise UsageError(f"rate={plan.rate_per_s:g}: the server scenario needs a rate above 0 a second; give --rate")
    if plan.scenario == "Server" and not 0 < plan.latency_bound_ms < float("inf"):
        raise UsageError(
            f"latency_bound_ms={plan.latency_bound_ms:g}: the server scenario needs a latency objective; give "
            "--slo p99=15ms"
        )
    if reason := lacks_open_files(plan.connections + DESCRIPTORS_LEFT, "such a load"):
        raise MissingCapability(reason)
    if plan.rate_per_s < 0 or not 1 <= plan.connections <= 1024:
        raise UsageError(f"rate={plan.rate_per_s:g}, connections={plan.connections}: give 0 or more, and 1 to 1024")


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SUMMARY_FILE, DETAIL_FILE):
            (folder / name).write_text("")
    except OSError as error:
        raise UsageError(
            f"{folder}: LoadGen cannot write its logs there ({error.strerror}); give another folder"
        ) from error


def _result(target: wire.Target, job: Job, payloads: Payloads, finished: Finished, cached: str) -> ScenarioResult:
    plan, folder = job.plan, job.plan.log_folder
    log = read_detail(folder / DETAIL_FILE)
    samples = merge([finished.records])
    answers = compare_answers(target, payloads, job.batch_size, _sample_answers(payloads, finished))
    failed = len(samples) - len(samples.answered)
    loadgen_valid = log["result_validity"] == "VALID"
    early_stopping = _words(log.get("early_stopping_result", ""))
    own_words = [_words(log.get("result_invalid_reason", "")), "" if log["early_stopping_met"] else early_stopping]
    reasons = [f"LoadGen: {words}" for words in own_words if words]
    if not loadgen_valid and not reasons:
        reasons.append("LoadGen: INVALID, without a reason")
    if cached:
        reasons.append(cached)
    if failed:
        reasons.append(f"{failed} of {len(samples)} requests failed")
    if answers.wrong:
        reasons.append(f"{answers.wrong} of {answers.checked} checked answers are wrong")
    is_server = plan.scenario == "Server"
    queries = int(log["result_query_count"])
    per_query = int(log["generated_samples_per_query"])
    return ScenarioResult(
        scenario=plan.scenario,
        valid=not reasons,
        loadgen_valid=loadgen_valid,
        reasons=tuple(reasons),
        remarks=_remarks(job, answers),
        model=target.model,
        version=target.version,
        loadgen_version=str(log["loadgen_version"]).partition(" ")[0],
        duration_s=plan.duration_s,
        rate_per_s=plan.target_rate_per_s,
        latency_bound_ms=plan.latency_bound_ms if is_server else 0.0,
        batch_size=job.batch_size,
        samples_per_query=per_query,
        connections=job.task.concurrency,
        num_queries=queries,
        num_samples=queries * per_query,
        samples_per_s=_samples_per_s(log),
        scheduled_per_s=log.get("result_scheduled_samples_per_sec"),
        num_over_bound=log.get("result_overlatency_query_count"),
        latency_bound_met=log.get("result_perf_constraints_met"),
        min_duration_met=log["result_min_duration_met"],
        min_queries_met=log["result_min_queries_met"],
        early_stopping_met=log["early_stopping_met"],
        early_stopping=early_stopping,
        lines=_result_lines((folder / SUMMARY_FILE).read_text()),
        service=percentiles(samples.answered.service_ms),
        errors=samples.error_counts,
        answers=answers,
        client_cpu_ms_per_request=finished.cpu_s / len(samples) * 1e3 if len(samples) else None,
        summary=str(folder / SUMMARY_FILE),
        detail=str(folder / DETAIL_FILE),
        **_latencies_ms(log, plan.scenario),
    )


def read_detail(path: Path) -> dict[str, Any]:
    """Return LoadGen's detailed log: the last value of each key.

    Raises:
        ResxError: it holds no result: LoadGen ended before its time.
    """
    found: dict[str, Any] = {}
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith(_LINE):
            entry = json.loads(line.removeprefix(_LINE))
            found[entry["key"]] = entry["value"]
    if "result_validity" not in found:
        raise ResxError(
            f"{path}: LoadGen's log has no result; {found.get('error_runtime', 'it ended before its time')}"
        )
    return found


def _latencies_ms(log: dict[str, Any], scenario: Scenario) -> dict[str, float]:
    kind = "_query" if scenario == "MultiStream" else ""
    names = {f"{name}_ms": f"result_{name}{kind}_latency_ns" for name in ("min", "mean", "max")}
    percentile = "per_query_latency_ns" if scenario == "MultiStream" else "latency_ns"
    for key, percent in {"50": "50.00", "90": "90.00", "95": "95.00", "97": "97.00", "99": "99.00"}.items():
        names[f"p{key}_ms"] = f"result_{percent}_percentile_{percentile}"
    names["p99_9_ms"] = f"result_99.90_percentile_{percentile}"
    return {name: float(log[key]) / 1e6 for name, key in names.items()}


def _samples_per_s(log: dict[str, Any]) -> float | None:
    keys = ("result_completed_samples_per_sec", "result_qps_with_loadgen_overhead", "result_samples_per_second")
    return next((float(log[key]) for key in keys if key in log), None)


def _remarks(job: Job, answers: Answers) -> tuple[str, ...]:
    too_short = (
        f"LoadGen was set to {job.plan.duration_s:g} s; MLPerf's rules require {MLPERF_LEAST_S:g} s for a submission"
    )
    remarks = {
        too_short: job.plan.duration_s < MLPERF_LEAST_S,
        answers.reference: not answers.checked,
        f"queries of {SAMPLES_PER_QUERY} samples in requests of {job.batch_size}": job.plan.scenario == "MultiStream",
    }
    return tuple(text for text, holds in remarks.items() if holds and text)


def _sample_answers(payloads: Payloads, finished: Finished) -> tuple[tuple[int, int, bytes], ...]:
    """Return some of the answers, spread over the run; none where nobody knows what is right."""
    kept = finished.records.answers if payloads.expected else ()
    return kept[:: max(1, len(kept) // _CHECKED_SHARE)]


def _result_lines(summary: str) -> tuple[str, ...]:
    """Return the summary's results: what stands between its title and the parameters."""
    results = summary.partition("MLPerf Results Summary")[2].partition("Test Parameters Used")[0]
    lines = (line.rstrip() for line in results.splitlines())
    return tuple(line for line in lines if line and not line.startswith("==="))


def _words(text: str) -> str:
    """Return LoadGen's several lines as one."""
    return re.sub(r"\s+", " ", text).replace("* ", "").strip()
