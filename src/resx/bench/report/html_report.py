"""One HTML file that shows a benchmark: its verdict first, then every figure, as charts and as numbers.

The file needs nothing else: no network, no script, no font. It reads the same without colours, with a keyboard, on
paper, and on a screen 375 px wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, TypeAlias

from resx.bench.report import comparison_charts, latency_charts, load_charts
from resx.bench.report.html_page import page
from resx.bench.report.html_parts import MISSING, Flag, ReportFigure, Table, brief, count, decimal, labels, percent
from resx.bench.results.gpu_sampling import Spread
from resx.bench.results.result import BenchResult, Interval, Measurement
from resx.bench.results.samples import MIN_SAMPLES
from resx.serving.running.gpu_use import SOURCES

_SLO_WORDS = {
    "asked": "Asked", "bound_ms": "Bound, ms", "rate_per_s": "Highest rate that meets it, requests/s",
    "capacity_per_s": "Closed loop before, requests/s", "capacity_after_per_s": "Closed loop after, requests/s",
    "wandered": "From the one to the other", "share_of_capacity": "The rate's share of their mean",
    "reached_ms": "Latency at that rate, ms", "limited_by": "Limited by",
    "client_limit_per_s": "Rate the client could not send in time, requests/s", "why": "Why none was found",
    "interrupted": "Interrupted",
}  # fmt: skip
_State: TypeAlias = Literal["good", "warn", "bad"]
_SIGNS: dict[_State, str] = {"good": "✓", "warn": "⚠\ufe0e", "bad": "✗"}  # \ufe0e: as text, not as a picture


def html(result: BenchResult, others: Sequence[BenchResult] = ()) -> str:
    """Return the report of `result`; the models of `others` stand beside its own in accuracy against latency.

    The same results give the same text.
    """
    targets = list(dict.fromkeys(m.target for m in result.measurements)) or [result.model]
    title = " and ".join(targets) if len(targets) < 3 else f"{len(targets)} models"
    sections = [
        ("verdict", "", _verdict(result)),
        ("loads", "Every load", _loads(result.measurements)),
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


def _verdict(result: BenchResult) -> str:
    """The headline: may these figures be used, and why not; then the figures one looks for first."""
    named = list(zip(labels(result.measurements), result.measurements, strict=True))
    word, told, state = _headline(result)
    stopped = any(m.interrupted for m in result.measurements)
    interrupted = "<p>The measurement was interrupted; these are the figures up to that point.</p>" if stopped else ""
    reasons = _grouped((reason, name) for name, m in named for reason in m.invalid)
    remarks = _grouped((remark, name) for name, m in named for remark in m.remarks)
    return (
        f'<div class="verdict {state}"><h2><b>{_SIGNS[state]} {word}</b>: {escape(told)}</h2>'
        + interrupted
        + _list("Why", reasons, len(named))
        + _list("Remarks", remarks, len(named))
        + f"</div>{_facts(result)}"
    )


def _flags(measurements: Sequence[Measurement]) -> dict[int, Flag]:
    """Return which loads' figures must not be used, and which varied."""
    found: dict[int, Flag] = {}
    for number, measured in enumerate(measurements):
        if measured.invalid:
            found[number] = "INVALID"
        elif measured.requests and not measured.stability.stable:
            found[number] = "UNSTABLE"
    return found


def _headline(result: BenchResult) -> tuple[str, str, _State]:
    """Return the verdict's word, what it means, and how good it is."""
    number, invalid = len(result.measurements), sum(bool(m.invalid) for m in result.measurements)
    if not number:
        return "INVALID", "nothing was measured", "bad"
    if result.slo is not None:
        asked, rate = result.slo.get("asked"), result.slo.get("rate_per_s")
        beyond = (
            f"; {invalid} of {count(number, 'trial')} are INVALID, because the search exceeds what the server can "
            "sustain"
        )
        if not isinstance(rate, int | float):
            return "Not found", f"no rate was found that meets {asked}", "bad"
        return "Found", f"{brief(rate)} requests per second meet {asked}{beyond if invalid else ''}", "good"
    if invalid:
        return "INVALID", f"the figures of {invalid} of {count(number, 'load')} must not be used", "bad"
    usable = f"the figures of {'the one load' if number == 1 else f'all {number} loads'} may be used"
    if unstable := len(_flags(result.measurements)):
        varied = "its throughput" if number == 1 else f"the throughput of {unstable}"
        return "Valid, but unstable", f"{usable}, but {varied} varied while it was measured", "warn"
    return "Valid", usable, "good"


def _grouped(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for words, name in found:
        groups.setdefault(words, []).append(name)
    return groups


def _list(heading: str, groups: dict[str, list[str]], num_loads: int) -> str:
    if not groups:
        return ""
    items = [
        f"<li>{escape(words)}"
        + ("</li>" if len(names) == num_loads else f' <span class="quiet">({escape(_few(names))})</span></li>')
        for words, names in groups.items()
    ]
    return f"<h3>{heading}</h3><ul>{''.join(items)}</ul>"


def _few(names: Sequence[str]) -> str:
    return "; ".join(names) if len(names) <= 4 else f"{'; '.join(names[:3])} and {len(names) - 3} more"


def _facts(result: BenchResult) -> str:
    """The best throughput, the shortest median, failures and wrong answers, of the loads that are valid."""
    usable = [m for m in result.measurements if not m.invalid]
    if not usable:
        return ""
    best = max(usable, key=lambda m: m.images_per_s)
    facts = [("Most images per second", brief(best.images_per_s), f"{best.target}, {best.title}")]
    quick = min((m for m in usable if m.p50_ms is not None), key=lambda m: m.p50_ms or 0.0, default=None)
    if quick is not None and quick.p50_ms is not None:
        tail = "p99 n/a" if quick.p99_ms is None else f"p99 {brief(quick.p99_ms)} ms"
        facts.append(("Shortest median", f"{brief(quick.p50_ms)} ms", f"{quick.title}, {tail}"))
    sent, failed = sum(m.sent for m in result.measurements), sum(m.failed for m in result.measurements)
    facts.append(("Requests failed", f"{failed:,}", f"of {sent:,} sent"))
    checked, wrong = (sum(getattr(m.answers, key) for m in result.measurements) for key in ("checked", "wrong"))
    facts.append(
        ("Answers wrong", f"{wrong:,}" if checked else "not checked", f"of {checked:,} checked" if checked else "")
    )
    served = [m.in_process.efficiency for m in usable if m.in_process is not None]
    if served:
        facts.append(("Serving efficiency", percent(max(served), 0), "at most, of the same file in process"))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in facts
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _loads(measurements: Sequence[Measurement]) -> str:
    if not measurements:
        return ""
    names = labels(measurements)
    efficiency = any(m.in_process is not None for m in measurements)
    opened = any(m.load == "open" for m in measurements)
    headings = ["Load", "Images/s", *(["Of asked, %"] if opened else []), "p50, ms", "p90, ms", "p99, ms", "p99.9, ms",
                "Largest, ms", "Failed", "Checked", "Wrong", *(["Efficiency, %"] if efficiency else [])]  # fmt: skip
    rows = []
    for name, m in zip(names, measurements, strict=True):
        asked = decimal(100 * m.requests_per_s / m.rate_per_s, 1) if m.rate_per_s else "–"
        times = [decimal(ms) for ms in (m.p50_ms, m.p90_ms, m.p99_ms, m.p99_9_ms, m.max_ms)]
        served = decimal(100 * m.in_process.efficiency, 0) if m.in_process is not None else MISSING
        rows.append(
            [
                name,
                decimal(m.images_per_s, 1),
                *([asked] if opened else []),
                *times,
                f"{m.failed:,}",
                f"{m.answers.checked:,}",
                f"{m.answers.wrong:,}",
                *([served] if efficiency else []),
            ]
        )
    flags = _flags(measurements)
    first = Table(caption="What each load achieved", headings=headings, rows=rows, flags=flags).html()
    return f"{first}<details><summary>The client's side of each load</summary>{_client(measurements, names)}</details>"


def _client(measurements: Sequence[Measurement], names: Sequence[str]) -> str:
    rows = []
    for name, m in zip(names, measurements, strict=True):
        ceiling = m.client.ceiling_requests_per_s
        errors = "; ".join(f"{times:,} times {error}" for error, times in m.errors.items()) or "none"
        late = "–" if m.late is None else decimal(100 * m.late.share)
        rows.append(
            [
                name,
                f"{m.sent:,}",
                decimal(m.window_s, 1),
                decimal(m.service.p50_ms),
                decimal(m.service.p99_ms),
                late,
                decimal(m.client_cpu_ms_per_request, 3),
                decimal(100 * m.client.cpu_share, 1),
                decimal(ceiling, 0),
                decimal(100 * m.stability.spread, 1),
                m.contents,
                m.answers.reference,
                errors,
            ]
        )
    headings = ["Load", "Sent", "Window, s", "Service p50, ms", "Service p99, ms", "Sent late, %",
                "CPU per request, ms", "CPU of a core, %", "Client's ceiling, requests/s", "Spread of thirds, %",
                "Contents", "Compared with", "Errors"]  # fmt: skip
    caption = "What the load generator did; service times count from when a request was sent"
    return Table(caption=caption, headings=headings, rows=rows, words=frozenset({10, 11, 12})).html()


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
    return _repeated(result) + _plates(figures)


def _repeated(result: BenchResult) -> str:
    if not result.repeated:
        return ""
    several = len({again.target for again in result.repeated}) > 1
    rows = [
        [
            f"{again.target}, {again.title}" if several else again.title,
            str(again.num_runs),
            _interval(again.images_per_s, 1),
            _interval(again.p50_ms),
            _interval(again.p99_ms),
        ]
        for again in result.repeated
    ]
    return Table(
        caption="Loads that were measured several times: means with 95 % confidence intervals",
        headings=["Load", "Runs", "Images/s", "p50, ms", "p99, ms"],
        rows=rows,
    ).html()


def _interval(interval: Interval | None, digits: int = 2) -> str:
    return MISSING if interval is None else f"{decimal(interval.mean, digits)} ± {decimal(interval.half_width, digits)}"


def _latency(measurements: Sequence[Measurement]) -> list[ReportFigure | None]:
    return [
        latency_charts.over_time(measurements),
        latency_charts.curves(measurements),
        load_charts.throughput(measurements),
    ]


def _server(measurements: Sequence[Measurement]) -> list[ReportFigure | None]:
    return [load_charts.split(measurements), load_charts.batches(measurements)]


def _server_section(measurements: Sequence[Measurement]) -> str:
    return _plates(_server(measurements)) + _server_use(measurements) + _gpus(measurements)


def _server_use(measurements: Sequence[Measurement]) -> str:
    """What the server took of its machine, or why nobody knows."""
    rows = [
        [
            name,
            MISSING if use.cpu_ms_per_request is None else decimal(use.cpu_ms_per_request, 2),
            decimal(use.cpu_s / measured.window_s, 2) if measured.window_s else MISSING,
            MISSING if use.pss_bytes is None else decimal(use.pss_bytes / 1e6, 0),
            decimal(use.rss_bytes / 1e6, 0),
            f"{use.num_processes:,}",
        ]
        for name, measured in zip(labels(measurements), measurements, strict=True)
        if (use := measured.server_use) is not None
    ]
    if not rows:
        why = next((measured.server_use_missing for measured in measurements if measured.server_use_missing), "")
        return f"<p>Memory and CPU time: unknown: {escape(why)}.</p>" if why else ""
    return Table(
        caption="What the server and its processes took of their machine, all loaded models included",
        headings=["Load", "CPU per request, ms", "Cores busy", "Memory (PSS), MB", "RSS, MB", "Processes"],
        rows=rows,
    ).html()


def _gpus(measurements: Sequence[Measurement]) -> str:
    """What the server's GPUs did, where anything says."""
    rows = [
        [
            name,
            gpu.name,
            _spread(gpu.utilization, 100, 0),
            _spread(gpu.memory_used_bytes, 1e-9, 1),
            MISSING if gpu.memory_total_bytes is None else decimal(gpu.memory_total_bytes / 1e9, 1),
            _spread(gpu.power_w, 1, 0),
            f"{gpu.num_samples:,}",
            SOURCES[gpu.source],
        ]
        for name, measured in zip(labels(measurements), measurements, strict=True)
        for gpu in measured.gpus or ()
    ]
    if not rows:
        return ""
    return Table(
        caption="The server's GPUs during each load: mean (least to most), of all programs on them",
        headings=["Load", "GPU", "Busy, %", "Memory used, GB", "Memory, GB", "Power, W", "Samples", "From"],
        rows=rows,
        words=frozenset({1, 7}),
    ).html()


def _spread(spread: Spread | None, scale: float, digits: int) -> str:
    if spread is None:
        return MISSING
    least, mean, most = (decimal(scale * value, digits) for value in (spread.min, spread.mean, spread.max))
    return f"{mean} ({least} to {most})"


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
