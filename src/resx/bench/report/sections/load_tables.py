"""What each load achieved, what the load generator did, and loads that were repeated, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from resx.bench.report.html_parts import MISSING, Flag, Table, decimal, labels
from resx.bench.results.result import BenchResult, Interval, Measurement


def flagged_loads(measurements: Sequence[Measurement]) -> dict[int, Flag]:
    """Return which loads' figures must not be used, and which varied."""
    found: dict[int, Flag] = {}
    for number, measured in enumerate(measurements):
        if measured.invalid:
            found[number] = "INVALID"
        elif measured.requests and not measured.stability.stable:
            found[number] = "UNSTABLE"
    return found


def loads_section(measurements: Sequence[Measurement]) -> str:
    """Return a table with a row for each load, and one of the client's side."""
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
    flags = flagged_loads(measurements)
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


def repeated_table(result: BenchResult) -> str:
    """Return a table of the loads that were measured several times; nothing where none was."""
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
