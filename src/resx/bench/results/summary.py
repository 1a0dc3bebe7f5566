"""A measurement made of what was observed while the generators ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import Payloads
from resx.bench.load.wire import Target
from resx.bench.results.observed_run import ObservedRun
from resx.bench.results.result import Client, Measurement, histogram_text, is_local
from resx.bench.results.right_answers import compare_answers
from resx.bench.results.samples import Percentiles, Samples, histogram, percentiles
from resx.bench.results.server_use import use_after
from resx.bench.results.verdict import Findings, reasons_against, remarks_on
from resx.bench.results.window_figures import late_in, seconds_of, stability_of


@dataclass(frozen=True, kw_only=True, slots=True)
class _WindowRequests:
    """The requests of one window."""

    window: Samples
    answered: Samples
    """Those of the window that were answered, then or later."""
    latency: Percentiles
    in_time: int
    """Answers in the window's time."""


def summarize(
    target: Target,
    plan: LoadPlan,
    payloads: Payloads,
    run: ObservedRun,
    samples: Samples,
    ceiling: float | None,
    repeat: int,
) -> Measurement:
    """Return the figures of a window, and whether they may be used.

    Args:
        target: what was measured.
        plan: the load.
        payloads: what the requests held.
        run: what was observed.
        samples: all requests of the run, those of the warm-up too.
        ceiling: requests per second that the generators could make; None: not measured.
        repeat: which of several repetitions.
    """
    window = run.samples_in_window(samples, is_open=plan.is_open)
    answered = window.answered
    latency = percentiles(answered.latencies_ms)
    counted = _WindowRequests(
        window=window, answered=answered, latency=latency, in_time=run.answered_in_time(samples.answered)
    )
    found = _findings(target, plan, payloads, run, samples, counted, ceiling)
    return Measurement(
        **_load_fields(target, plan),
        **_figures(plan, found, counted),
        **_server_fields(run, found, counted),
        repeat=repeat,
        contents=payloads.contents,
        seconds=seconds_of(window, run.window, is_open=plan.is_open),
        interrupted=bool(run.interrupted),
        invalid=reasons_against(found),
        remarks=remarks_on(found),
    )


def _findings(
    target: Target,
    plan: LoadPlan,
    payloads: Payloads,
    run: ObservedRun,
    samples: Samples,
    counted: _WindowRequests,
    ceiling: float | None,
) -> Findings:
    return Findings(
        plan=plan,
        sent=len(counted.window),
        answered=len(counted.answered),
        window_s=run.window_s,
        requests_per_s=counted.in_time / run.window_s if run.window_s else 0.0,
        client=_client(plan, run, counted.in_time, ceiling),
        late=late_in(counted.window, counted.latency.p50_ms) if plan.is_open else None,
        answers=compare_answers(target, payloads, plan.batch_size, run.sampled_answers() if payloads.expected else ()),
        stability=stability_of(samples.answered, run.window),
        server=run.server,
        cached_share=run.cached_share,
        most_served=run.most_served(samples),
        interrupted=run.interrupted,
        server_is_local=is_local(target.address),
        throttled=run.throttled,
    )


def _client(plan: LoadPlan, run: ObservedRun, in_time: int, ceiling: float | None) -> Client:
    return Client(
        processes=plan.processes,
        cpu_ms_per_request=run.cpu_s / in_time * 1e3 if in_time else None,
        cpu_share=run.cpu_s / run.window_s if run.window_s else 0.0,
        ceiling_requests_per_s=ceiling,
    )


def _load_fields(target: Target, plan: LoadPlan) -> dict[str, Any]:
    """Return what was asked for."""
    return {
        "model": target.model,
        "version": target.version,
        "label": target.label,
        "url": str(target.address),
        "load": "open" if plan.is_open else "closed",
        "concurrency": plan.concurrency,
        "rate_per_s": plan.rate_per_s,
        "arrivals": plan.arrivals if plan.is_open else "",
        "batch_size": plan.batch_size,
    }


def _figures(plan: LoadPlan, found: Findings, counted: _WindowRequests) -> dict[str, Any]:
    """Return what the client saw."""
    latencies_ms = counted.answered.latencies_ms
    return counted.latency.model_dump() | {
        "window_s": found.window_s,
        "requests": found.answered,
        "sent": found.sent,
        "failed": found.sent - found.answered,
        "images_per_s": found.requests_per_s * plan.batch_size,
        "requests_per_s": found.requests_per_s,
        "service": percentiles(counted.answered.service_ms),
        "errors": counted.window.error_counts,
        "client_cpu_ms_per_request": found.client.cpu_ms_per_request,
        "client": found.client,
        "late": found.late,
        "answers": found.answers,
        "stability": found.stability,
        "hdr": histogram_text(histogram(latencies_ms)) if len(latencies_ms) else "",
    }


def _server_fields(run: ObservedRun, found: Findings, counted: _WindowRequests) -> dict[str, Any]:
    """Return what the server did meanwhile."""
    use = use_after(run.use, run.server_cpu_s, counted.in_time)
    return {
        "server": found.server,
        "cached_share": found.cached_share,
        "gpus": run.gpus,
        "server_use": use,
        "server_use_missing": "" if use else run.use.missing or "the server ended",
    }
