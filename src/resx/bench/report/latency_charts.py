"""Charts of latency: over the time of each load, and by percentile."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

from resx.bench.report import charts
from resx.bench.report.charts import Plot
from resx.bench.report.html_parts import ReportFigure, Table, brief, count, decimal, labels
from resx.bench.results.result import Measurement, Second
from resx.bench.results.samples import MIN_SAMPLES

_P50, _P99 = 0, 1
"""Their styles in every chart that draws both."""
_SLACK = MIN_SAMPLES[99.9] * 0.001
"""Samples beyond a percentile that it takes at least to know it."""


def over_time(measurements: Sequence[Measurement]) -> ReportFigure | None:
    """Return p50 and p99 of each slice of each load on one scale of latency; None if there are no slices."""
    shown = [(name, m) for name, m in zip(labels(measurements), measurements, strict=True) if m.seconds]
    values = [ms for _, m in shown for second in m.seconds for ms in (second.p50_ms, second.p99_ms) if ms]
    if not shown:
        return None
    y_range = charts.log_range(values or [1.0])
    pictures = [(name, _slices(name, measured, y_range)) for name, measured in shown]
    legend = [
        (charts.swatch(_P50), "p50 of a slice"),
        (charts.swatch(_P99, dashed=True, hollow=True), "p99 of a slice, or its largest where samples are few"),
    ]
    failed = sum(second.failed for _, m in shown for second in m.seconds)
    if failed:
        legend.append(
            (f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true">{_sample_cross()}</svg>', "failures")
        )
    rows = [
        [
            name,
            decimal(second.at_s, 1),
            decimal(second.answers_per_s, 1),
            decimal(second.p50_ms),
            decimal(second.p99_ms),
            str(second.failed),
        ]
        for name, measured in shown
        for second in measured.seconds
    ]
    return ReportFigure(
        name="time",
        title="Latency over time",
        style="many",
        pictures=pictures,
        legend=legend,
        words="One picture per load, all on the same logarithmic scale. "
        + _worst_slice(shown)
        + (f" {count(failed, 'request')} failed." if failed else " No request failed."),
        table=Table(
            caption="Latency over time: each slice of each load",
            headings=["Load", "Until, s", "Answers/s", "p50, ms", "p99, ms", "Failed"],
            rows=rows,
        ),
    )


def _slices(name: str, measured: Measurement, y_range: tuple[float, float]) -> str:
    plot = Plot(
        width=320,
        height=190,
        x_range=(0.0, max(second.at_s for second in measured.seconds)),
        y_range=y_range,
        y_log=True,
    )
    parts = [plot.axes("time, s", "latency, ms")]
    starts = [0.0, *(second.at_s for second in measured.seconds[:-1])]
    middles = [plot.x((start + second.at_s) / 2) for start, second in zip(starts, measured.seconds, strict=True)]
    for style, field, word in ((_P99, "p99_ms", "p99"), (_P50, "p50_ms", "p50")):
        times = [getattr(second, field) for second in measured.seconds]
        places = [None if ms is None else (x, plot.y(ms)) for x, ms in zip(middles, times, strict=True)]
        parts.append(charts.line(places, style, extra="dashed" if style == _P99 else ""))
        parts += [
            charts.mark(*place, style, _told(second, word, ms), hollow=style == _P99, size=2.8)
            for place, second, ms in zip(places, measured.seconds, times, strict=True)
            if place is not None
        ]
    parts += [
        charts.cross(x, plot.top + 2, f"{count(second.failed, 'failure')} until {second.at_s:.1f} s")
        for x, second in zip(middles, measured.seconds, strict=True)
        if second.failed
    ]
    return plot.svg(
        f"Latency over time at {name}: p50 and p99 of {count(len(measured.seconds), 'slice')}", "".join(parts)
    )


def _told(second: Second, word: str, ms: float) -> str:
    return f"{word} {brief(ms)} ms until {second.at_s:.1f} s, at {second.answers_per_s:.0f} answers/s"


def _worst_slice(shown: Sequence[tuple[str, Measurement]]) -> str:
    found = [(s.p99_ms, name, s.at_s) for name, m in shown for s in m.seconds if s.p99_ms is not None]
    if not found:
        return "No slice has enough samples."
    ms, name, at_s = max(found, key=lambda item: item[0])
    return f"The slowest slice ends at {at_s:.1f} s of {name}: {brief(ms)} ms."


def _sample_cross() -> str:
    return charts.cross(15, 7, "").replace('class="mark ', 'class="sample ')


def curves(measurements: Sequence[Measurement]) -> ReportFigure | None:
    """Return latency by percentile, on an axis of nines; None if no load has a histogram."""
    named = zip(labels(measurements), measurements, strict=True)
    found = [(name, m, steps) for name, m in named if (steps := histogram_steps(m.hdr))]
    if not found:
        return None
    most = max(steps[-1][0] for _, _, steps in found)
    plot = Plot(
        width=460,
        height=320,
        x_range=(0.0, max(1.0, math.ceil(most * 2) / 2)),
        y_log=True,
        y_range=charts.log_range([ms for _, _, steps in found for _, ms in steps]),
    )
    ticks = [(0.0, "0"), (math.log10(2), "50"), *((float(n), _nines(n)) for n in range(1, int(plot.x_range[1]) + 1))]
    parts = [plot.axes("percentile", "latency, ms", x_ticks=ticks)]
    for style, (name, measured, steps) in enumerate(found):
        parts.append(_curve(plot, style, steps, measured.requests))
        for share, ms in _known(measured):
            at = plot.x(-math.log10(1 - share))
            told = f"{name}: p{100 * share:g} {brief(ms)} ms"
            parts.append(charts.mark(at, plot.y(ms), style, told, hollow=charts.is_again(style)))
    legend = [(charts.swatch(style, hollow=charts.is_again(style)), name) for style, (name, _, _) in enumerate(found)]
    return ReportFigure(
        name="percentiles",
        title="Latency by percentile",
        pictures=[("", plot.svg(f"Latency by percentile of {count(len(found), 'load')}", "".join(parts)))],
        legend=legend,
        words="Each step of the axis leaves a tenth of the requests. Marks: p50, p90, p95, p99, p99.9. "
        "Dotted from where samples are too few to know a percentile, up to the slowest request. " + _widest(found),
        table=_percentile_table(found),
    )


def histogram_steps(encoded: str) -> list[tuple[float, float]]:
    """Return (nines, ms) of each value of an HDR histogram in us; empty if there is none that can be read.

    Nines are -log10(1 - share of requests up to the value); the slowest request stands where half a request is left.
    """
    from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
    from hdrh.histogram import HdrHistogram

    trouble = (TypeError, ValueError, zlib.error, HdrCookieException, HdrLengthException, HdrHistogramSettingsException)
    if not encoded:
        return []
    try:
        made = HdrHistogram.decode(encoded)
    except trouble:
        return []
    total = made.get_total_count()
    return [
        (-math.log10(max(1 - item.total_count_to_this_value / total, 0.5 / total)), item.value_iterated_to / 1e3)
        for item in made.get_recorded_iterator()
    ]


def _curve(plot: Plot, style: int, steps: Sequence[tuple[float, float]], requests: int) -> str:
    limit = math.log10(max(requests / _SLACK, 1.0))
    known: list[tuple[float, float] | None] = []
    beyond: list[tuple[float, float] | None] = []
    left = plot.x(0.0)
    for nines, ms in steps:
        right, y = plot.x(nines), plot.y(ms)
        if known and not beyond and right - left < 0.4 and nines <= limit:
            continue  # a step that cannot be seen
        if nines <= limit:
            known += [(left, y), (right, y)]
        else:
            middle = max(left, plot.x(limit))
            if not beyond and middle > left:
                known += [(left, y), (middle, y)]
            beyond += [(middle, y), (right, y)]
        left = right
    return charts.line(known, style) + charts.line(beyond, style, extra="dotted")


def _known(measured: Measurement) -> list[tuple[float, float]]:
    values = (
        (0.5, measured.p50_ms),
        (0.9, measured.p90_ms),
        (0.95, measured.p95_ms),
        (0.99, measured.p99_ms),
        (0.999, measured.p99_9_ms),
    )
    return [(share, ms) for share, ms in values if ms is not None]


def _widest(found: Sequence[tuple[str, Measurement, object]]) -> str:
    spreads = [(m.p99_ms / m.p50_ms, name, m) for name, m, _ in found if m.p99_ms and m.p50_ms]
    if not spreads:
        return "No load has samples enough for its p99."
    ratio, name, m = max(spreads, key=lambda item: item[0])
    return (
        f"The longest tail is that of {name}: p99 {brief(m.p99_ms or 0)} ms is {brief(ratio)} times p50 "
        f"{brief(m.p50_ms or 0)} ms."
    )


def _percentile_table(found: Sequence[tuple[str, Measurement, object]]) -> Table:
    rows = [
        [name, f"{m.requests:,}", *map(decimal, (m.p50_ms, m.p90_ms, m.p95_ms, m.p99_ms, m.p99_9_ms, m.max_ms))]
        for name, m, _ in found
    ]
    return Table(
        caption="Latency by percentile, ms",
        headings=["Load", "Samples", "p50", "p90", "p95", "p99", "p99.9", "Largest"],
        rows=rows,
    )


def _nines(number: int) -> str:
    return "90" if number == 1 else "99" if number == 2 else f"99.{'9' * (number - 2)}"
