"""One HTML file that shows a benchmark: its verdict first, then every figure, as charts and as numbers.

The file needs nothing else: no network, no script, no font. It reads the same without colours, with a keyboard, on
paper, and on a screen 375 px wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from resx.bench.report import comparison_charts, latency_charts, load_charts
from resx.bench.report.html_page import page
from resx.bench.report.html_parts import MISSING, ReportFigure, brief, count
from resx.bench.report.sections.load_tables import loads_section, repeated_table
from resx.bench.report.sections.server_tables import gpus_table, server_use_table
from resx.bench.report.sections.verdict_section import verdict_section
from resx.bench.results.result import BenchResult, Measurement
from resx.bench.results.samples import MIN_SAMPLES

_SLO_WORDS = {
    "asked": "Asked", "bound_ms": "Bound, ms", "rate_per_s": "Highest rate that meets it, requests/s",
    "capacity_per_s": "Closed loop before, requests/s", "capacity_after_per_s": "Closed loop after, requests/s",
    "wandered": "From the one to the other", "share_of_capacity": "The rate's share of their mean",
    "reached_ms": "Latency at that rate, ms", "limited_by": "Limited by",
    "client_limit_per_s": "Rate the client could not send in time, requests/s", "why": "Why none was found",
    "interrupted": "Interrupted",
}  # fmt: skip


def html(result: BenchResult, others: Sequence[BenchResult] = ()) -> str:
    """Return the report of `result`; the models of `others` stand beside its own in accuracy against latency.

    The same results give the same text.
    """
    targets = list(dict.fromkeys(m.target for m in result.measurements)) or [result.model]
    title = " and ".join(targets) if len(targets) < 3 else f"{len(targets)} models"
    sections = [
        ("verdict", "", verdict_section(result)),
        ("loads", "Every load", loads_section(result.measurements)),
        ("found", "The highest rate that meets", _slo(result)),
        ("compared", "Compared", _compared(result, others)),
        ("latency", "Latency", _plates(_latency(result.measurements))),
        ("server", "Load and server", _server_section(result.measurements)),
        ("environment", "Environment", _environment(result)),
        ("reading", "How to read this", _reading()),
    ]
    return page(
        f"{title}: benchmark",
        subtitle=_subtitle(result),
        sections=sections,
        first="verdict",
        resx=result.environment.resx,
    )


def _subtitle(result: BenchResult) -> str:
    parts = [escape(result.url), escape(result.created.replace("T", " ").removesuffix("+00:00") + " UTC")]
    if not result.created:
        parts = parts[:1]
    if result.command:
        parts.append(f"<code>{escape(result.command)}</code>")
    return f'<p class="subtitle">{" · ".join(parts)}</p>'


def _slo(result: BenchResult) -> str:
    if result.slo is None:
        return ""
    return _rows({_SLO_WORDS.get(key, key.replace("_", " ")): _said(value) for key, value in result.slo.items()})


def _said(value: float | str | bool | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return brief(value) if isinstance(value, float | int) else value


def _rows(facts: dict[str, str]) -> str:
    cells = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return f'<dl class="rows">{cells}</dl>'


def _compared(result: BenchResult, others: Sequence[BenchResult]) -> str:
    figures = [comparison_charts.ratios(result.ratios), comparison_charts.pareto([result, *others])]
    return repeated_table(result) + _plates(figures)


def _latency(measurements: Sequence[Measurement]) -> list[ReportFigure | None]:
    return [
        latency_charts.over_time(measurements),
        latency_charts.curves(measurements),
        load_charts.throughput(measurements),
    ]


def _server(measurements: Sequence[Measurement]) -> list[ReportFigure | None]:
    return [load_charts.split(measurements), load_charts.batches(measurements)]


def _server_section(measurements: Sequence[Measurement]) -> str:
    return _plates(_server(measurements)) + server_use_table(measurements) + gpus_table(measurements)


def _plates(figures: Sequence[ReportFigure | None]) -> str:
    shown = [figure.html() for figure in figures if figure is not None]
    return f'<div class="plates">{"".join(shown)}</div>' if shown else ""


def _environment(result: BenchResult) -> str:
    known = result.environment
    cores = (
        f"{count(known.usable_cores, 'core')}, shared by client and server"
        if known.server_is_local
        else (f"{count(known.usable_cores, 'core')} for the client; the server is elsewhere")
    )
    return _rows(
        {
            "Processor": known.machine,
            "Usable": cores,
            "CPU quota": "none" if known.cpu_quota is None else f"{known.cpu_quota:g} cores",
            "Frequency governor": known.governor or "not told",
            "Load average before": f"{known.load_average:g}",
            "Triton": known.triton,
            "Server": ", ".join(filter(None, (known.server_kind, known.server_threads))),
            "Response cache": "on" if known.response_cache else "off",
            "Python": known.python,
            "Packages": ", ".join(f"{name} {v}" for name, v in known.packages.items()),
        }
    )


def _reading() -> str:
    rules = ", ".join(f"p{known:g} {least:,}" for known, least in MIN_SAMPLES.items())
    items = (
        "In an open loop, latency counts from the moment a request was due, not from when it was sent, so that a "
        "server that stalls cannot hide the requests it kept waiting (no coordinated omission). In a closed loop the "
        "next request waits for an answer, so a stall shows in fewer samples than users would meet.",
        f"{MISSING} stands where there are too few samples for a percentile. The least numbers are {rules}.",
        "INVALID marks figures that must not be used, and the verdict says why. Remarks are what to keep in mind.",
        "Efficiency is the images per second that were served, over those that the same file reaches in process.",
        "Queue and computation are the server's own means; what the client sees beyond them is transport and waiting "
        "for a core.",
    )
    return f'<div class="reading"><ul>{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul></div>'
