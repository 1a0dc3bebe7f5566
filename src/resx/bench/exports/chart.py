"""The forms in pictures: latency against accuracy, or size where that was not measured; throughput against size."""

from __future__ import annotations

from collections.abc import Sequence

from resx.bench.exports.comparison import ExportComparison, Form, latency_ms
from resx.bench.report import charts
from resx.bench.report.charts import Plot, nice_step, zero_range
from resx.bench.report.html_parts import ReportFigure, brief

_WIDTH, _HEIGHT = 460, 340
_LEAST_POINTS = 1.0
"""Percentage points that the accuracy axis spans at least: what is less is drawn as little."""


def front_figure(found: ExportComparison) -> ReportFigure | None:
    """Return the picture; None where no form was measured."""
    forms = found.measured
    if not forms:
        return None
    by_accuracy = found.front_by == "latency and accuracy"
    x_range = zero_range([_latest(form) for form in forms])
    y_range = _accuracy_range(forms) if by_accuracy else zero_range([_size(form) for form in forms])
    plot = Plot(width=_WIDTH, height=_HEIGHT, x_range=x_range, y_range=y_range, left=52)
    y_title = "Accuracy, %" if by_accuracy else "Size, MB"
    parts = [plot.axes("Median latency, ms", y_title)]
    front = sorted((form for form in forms if form.on_front), key=latency_ms)
    parts.append(charts.line([_place(plot, form, by_accuracy=by_accuracy) for form in front], 5, extra="dashed"))
    for style, form in enumerate(forms):
        parts += _mark(plot, form, style, by_accuracy=by_accuracy)
    which = "the higher and the further left" if by_accuracy else "the lower and the further left"
    whiskers = "Bars reach from the lowest to the highest round" + (
        ", and over the 95 % interval of the accuracy." if by_accuracy else "."
    )
    return ReportFigure(
        name="forms-chart",
        title=f"{y_title.partition(',')[0]} by latency",
        pictures=[("", plot.svg(f"{y_title} by latency of {len(forms)} forms", "".join(parts)))],
        words=f"A mark is a form, {which} the better. {whiskers} {_front_words(front)}",
        legend=_legend(forms),
    )


def throughput_figure(found: ExportComparison) -> ReportFigure | None:
    """Return throughput against the files' size; None where no form was measured."""
    forms = found.measured
    if not forms:
        return None
    speeds = [form.speed for form in forms if form.speed is not None]
    x_range, y_range = (
        zero_range([_size(form) for form in forms]),
        zero_range([speed.images_per_s.high for speed in speeds]),
    )
    plot = Plot(width=_WIDTH, height=_HEIGHT, x_range=x_range, y_range=y_range, left=52)
    batches = " and ".join(dict.fromkeys(str(speed.batch_size) for speed in speeds))
    parts = [plot.axes("Size, MB", "Images per second")]
    for style, (form, speed) in enumerate(zip(forms, speeds, strict=True)):
        x, images = plot.x(_size(form)), speed.images_per_s
        parts.append(charts.line([(x, plot.y(images.low)), (x, plot.y(images.high))], style))
        title = f"{form.name}: {brief(images.median)} images/s, {brief(_size(form))} MB"
        parts.append(charts.mark(x, plot.y(images.median), style, title, hollow=not form.on_front, size=5))
    fastest = max(forms, key=lambda form: form.speed.images_per_s.median if form.speed else 0.0)
    return ReportFigure(
        name="throughput-chart",
        title="Throughput by size",
        pictures=[("", plot.svg(f"Images per second by size of {len(forms)} forms", "".join(parts)))],
        words=f"Images per second at batch {batches}, the higher and the further left the better. Bars reach from the "
        f"lowest to the highest round. The fastest is {fastest.name}.",
        legend=_legend(forms),
    )


def _front_words(front: Sequence[Form]) -> str:
    names = ", ".join(form.name for form in front)
    if len(front) == 1:
        return f"No other form is as good in both as {names}, the filled mark."
    return f"The dashed line joins the filled marks, the forms on the front: {names}."


def _legend(forms: Sequence[Form]) -> list[tuple[str, str]]:
    return [(charts.swatch(style, hollow=not form.on_front), form.name) for style, form in enumerate(forms)]


def _mark(plot: Plot, form: Form, style: int, *, by_accuracy: bool) -> list[str]:
    assert form.speed is not None
    x, y = _place(plot, form, by_accuracy=by_accuracy)
    spread, low_high = form.speed.p50_ms, form.accuracy if by_accuracy else None
    parts = [charts.line([(plot.x(spread.low), y), (plot.x(spread.high), y)], style)]
    if low_high is not None:
        parts.append(charts.line([(x, plot.y(100 * low_high.low)), (x, plot.y(100 * low_high.high))], style))
    second = f"{100 * form.accuracy.share:.2f} %" if by_accuracy and form.accuracy else f"{brief(_size(form))} MB"
    title = f"{form.name}: {brief(latency_ms(form))} ms, {second}"
    parts.append(charts.mark(x, y, style, title, hollow=not form.on_front, size=5))
    return parts


def _place(plot: Plot, form: Form, *, by_accuracy: bool) -> tuple[float, float]:
    share = 100 * form.accuracy.share if form.accuracy else 0.0
    return plot.x(latency_ms(form)), plot.y(share if by_accuracy else _size(form))


def _latest(form: Form) -> float:
    assert form.speed is not None
    return form.speed.p50_ms.high


def _size(form: Form) -> float:
    return (form.size_bytes or 0) / 1e6


def _accuracy_range(forms: Sequence[Form]) -> tuple[float, float]:
    """Return round percentages around the intervals, not beyond 0 and 100."""
    shares = [form.accuracy for form in forms if form.accuracy is not None]
    low, high = min(100 * share.low for share in shares), max(100 * share.high for share in shares)
    step = nice_step(max(high - low, _LEAST_POINTS))
    return max(0.0, step * (low // step)), min(100.0, step * (high // step + 1))
