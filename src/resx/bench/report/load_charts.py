"""Charts over the loads of a benchmark: throughput against latency, where the time goes, and how full batches were."""

from __future__ import annotations

from collections.abc import Sequence

from resx.bench.report import charts
from resx.bench.report.charts import Plot
from resx.bench.report.html_parts import ReportFigure, Table, brief, count, decimal, labels, percent, shorten
from resx.bench.results.result import Measurement
from resx.bench.results.server_statistics import ServerBreakdown

_PHASES = (
    ("queue", "queue_ms", "waiting in the queue"),
    ("input", "compute_input_ms", "input"),
    ("infer", "compute_infer_ms", "inference"),
    ("output", "compute_output_ms", "output"),
)
_ROW, _BAR = 38, 13
"""Heights in the split's chart: of a load, and of its bar."""


def throughput(measurements: Sequence[Measurement]) -> ReportFigure | None:
    """Return images per second against p50 and p99, a line per target and kind of load; None without latencies."""
    series: dict[str, list[Measurement]] = {}
    for measured, name in zip(measurements, _series_names(measurements), strict=True):
        series.setdefault(name, []).append(measured)
    values = [ms for m in measurements for ms in (m.p50_ms, m.p99_ms) if ms is not None]
    if not values:
        return None
    plot = Plot(
        width=460,
        height=320,
        x_range=charts.zero_range([m.images_per_s for m in measurements]),
        y_range=charts.log_range(values),
        y_log=True,
    )
    parts = [plot.axes("throughput, images/s", "latency, ms")]
    legend = []
    for style, (name, group) in enumerate(series.items()):
        ordered = sorted(group, key=lambda m: (m.concurrency, m.rate_per_s, m.repeat))
        parts.append(_load_line(plot, style, name, ordered))
        legend.append((charts.swatch(style), f"{name}, p50"))
        if len(series) == 1:
            legend.append((charts.swatch(style, hollow=True, dashed=True), f"{name}, p99"))
    best = max(measurements, key=lambda m: m.images_per_s)
    closed = any(m.load == "closed" for m in measurements)
    return ReportFigure(
        name="throughput",
        title="Throughput against latency",
        pictures=[("", plot.svg("Throughput against latency: p50 and p99 of each load", "".join(parts)))],
        legend=legend,
        words=("Dashed with hollow marks: p99. " if len(series) > 1 else "")
        + ("The number beside a mark is how many requests were in flight. " if closed else "")
        + f"Most images per second: {brief(best.images_per_s)} at {best.title}"
        + (f", with p50 {brief(best.p50_ms)} ms" if best.p50_ms is not None else "")
        + (f" and p99 {brief(best.p99_ms)} ms." if best.p99_ms is not None else "."),
        table=Table(
            caption="Throughput against latency",
            headings=["Load", "Images/s", "p50, ms", "p99, ms"],
            rows=[
                [name, decimal(m.images_per_s, 1), decimal(m.p50_ms), decimal(m.p99_ms)]
                for name, m in zip(labels(measurements), measurements, strict=True)
            ],
        ),
    )


def _series_names(measurements: Sequence[Measurement]) -> list[str]:
    targets = len({(m.target, m.url) for m in measurements}) > 1
    batches = len({m.batch_size for m in measurements}) > 1
    urls = len({m.url for m in measurements}) > 1
    return [
        ", ".join(
            [
                *([m.target] if targets else []),
                *([m.url] if urls else []),
                "closed loop" if m.load == "closed" else f"open loop, {m.arrivals}",
                *([f"batch {m.batch_size}"] if batches else []),
            ]
        )
        for m in measurements
    ]


def _load_line(plot: Plot, style: int, name: str, ordered: Sequence[Measurement]) -> str:
    parts, marks = [], []
    for field, word in (("p99_ms", "p99"), ("p50_ms", "p50")):
        tail = word == "p99"
        found = [(m, getattr(m, field)) for m in ordered]
        places = [None if ms is None else (plot.x(m.images_per_s), plot.y(ms)) for m, ms in found]
        parts.append(charts.line(places, style, extra="dashed" if tail else ""))
        for (m, ms), place in zip(found, places, strict=True):
            if place is None:
                continue
            told = f"{name}, {m.title}: {word} {brief(ms)} ms at {brief(m.images_per_s)} images/s"
            marks.append(charts.mark(*place, style, told, hollow=tail))
            if not tail and m.load == "closed":
                marks.append(charts.text(place[0], place[1] + 16, str(m.concurrency), anchor="middle"))
    return "".join([*parts, *marks])


def split(measurements: Sequence[Measurement]) -> ReportFigure | None:
    """Return where a request's time went in the server, a bar per load; None if no server said."""
    named = zip(labels(measurements), measurements, strict=True)
    shown = [(name, m.server) for name, m in named if m.server is not None]
    if not shown:
        return None
    widest = max(server.queue_ms + server.compute_ms for _, server in shown)
    plot = Plot(
        width=460,
        height=28 + _ROW * len(shown) + 40,
        x_range=charts.zero_range([widest]),
        y_range=(0.0, 1.0),
        left=2,
        top=4,
    )
    parts = [_bar_axis(plot)]
    for number, (name, server) in enumerate(shown):
        parts.append(_bar_of(plot, 10.0 + number * _ROW, name, server))
    waiting = max(shown, key=lambda item: item[1].queue_ms / (item[1].queue_ms + item[1].compute_ms or 1))
    queue, total = waiting[1].queue_ms, waiting[1].queue_ms + waiting[1].compute_ms
    return ReportFigure(
        name="split",
        title="Where the time goes in the server",
        pictures=[("", plot.svg("Mean time of a request in queue and computation, a bar per load", "".join(parts)))],
        legend=[(charts.fill_swatch(style), word) for style, _, word in _PHASES],
        words="Means per request, from Triton's own statistics over the measured window. The largest share of waiting "
        f"is at {waiting[0]}: {percent(queue / (total or 1), 0)} of {brief(total)} ms.",
        table=Table(
            caption="Mean time of a request in the server, ms",
            headings=["Load", "Queue", "Input", "Inference", "Output", "Sum", "Requests", "Executions"],
            rows=[
                [
                    name,
                    *(decimal(getattr(server, field), 3) for _, field, _ in _PHASES),
                    decimal(server.queue_ms + server.compute_ms, 3),
                    f"{server.requests:,}",
                    f"{server.executions:,}",
                ]
                for name, server in shown
            ],
        ),
    )


def _bar_axis(plot: Plot) -> str:
    foot = plot.height - plot.bottom
    lines = "".join(
        f'<line class="grid" x1="{plot.x(tick):.1f}" x2="{plot.x(tick):.1f}" y1="{plot.top}" y2="{foot}"/>'
        + charts.text(plot.x(tick), foot + 17, charts.number(tick), anchor="middle" if tick else "start")
        for tick in plot.x.ticks
    )
    return lines + charts.text(plot.width - plot.right, plot.height - 5, "time, ms", anchor="end", style="title")


def _bar_of(plot: Plot, top: float, name: str, server: ServerBreakdown) -> str:
    total = server.queue_ms + server.compute_ms
    label = f"{shorten(name, 34)}: {brief(total)} ms, {brief(server.queue_ms)} waiting"
    parts = [charts.text(plot.left, top + 8, label, style="name")]
    before = 0.0
    for style, field, word in _PHASES:
        ms = getattr(server, field)
        start, end = plot.x(before), plot.x(before + ms)
        parts.append(charts.bar(start, top + 14, end - start, _BAR, style, f"{name}, {word}: {brief(ms)} ms"))
        before += ms
    return "".join(parts)


def batches(measurements: Sequence[Measurement]) -> ReportFigure | None:
    """Return how often the model ran on how many images, a picture per load; None if no server said."""
    named = zip(labels(measurements), measurements, strict=True)
    shown = [(name, m.server) for name, m in named if m.server is not None and m.server.batches]
    if not shown:
        return None
    largest = max(max(server.batches) for _, server in shown)
    fullest = max(shown, key=lambda item: item[1].mean_batch_size)
    return ReportFigure(
        name="batches",
        title="Batches that the server ran",
        style="pairs",
        pictures=[(name, _histogram(name, server, largest)) for name, server in shown],
        words="Share of the model's executions by number of images; one picture per load, all on the same scales. The "
        f"fullest on average are those of {fullest[0]}: {brief(fullest[1].mean_batch_size)} images.",
        table=Table(
            caption="Executions by number of images",
            headings=["Load", "Images", "Executions", "Share, %"],
            rows=[
                [name, str(size), f"{times:,}", decimal(100 * times / sum(server.batches.values()), 1)]
                for name, server in shown
                for size, times in server.batches.items()
            ],
        ),
    )


def _histogram(name: str, server: ServerBreakdown, largest: int) -> str:
    plot = Plot(width=230, height=140, left=34, right=8, x_range=(0.4, largest + 0.6), y_range=(0.0, 100.0))
    step = max(1, round(charts.nice_step(largest, 6)))
    sizes = [1, *(size for size in range(step, largest + 1, step) if size > 1)]
    parts = [plot.axes("images in a batch", "executions, %", x_ticks=[(float(size), str(size)) for size in sizes])]
    runs = sum(server.batches.values())
    width = max(1.0, 0.7 * (plot.x(1.4) - plot.x(0.4)))
    foot = plot.y(0.0)
    for size, times in server.batches.items():
        top = plot.y(100 * times / runs)
        told = f"{count(size, 'image')}: {count(times, 'execution')}, {percent(times / runs)}"
        parts.append(charts.bar(plot.x(float(size)) - width / 2, top, width, foot - top, "infer", told))
    mean = f"mean {brief(server.mean_batch_size)}"
    parts.append(charts.text(plot.width - plot.right, 12, mean, anchor="end", style="name"))
    return plot.svg(f"Batches at {name}: {mean} images", "".join(parts))
