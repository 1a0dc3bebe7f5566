"""An evaluation's pictures: the confusion matrix, and the share of right answers by the model's own probability."""

from __future__ import annotations

from resx.analysis.classification.evaluation import Calibration, Evaluation
from resx.bench.report import charts
from resx.bench.report.charts import Plot
from resx.bench.report.html_parts import MISSING, ReportFigure, Table, count, decimal, percent, shorten

MOST_CLASSES = 30
"""That a matrix can be read with."""
_CELL, _LEFT, _TOP = 34, 150, 34
_SHADES = 10
_LEAST_WIDTH, _BESIDE_ANOTHER = 460, 12

STYLE = "".join(f".h{step}{{fill:var(--c0);fill-opacity:{step / _SHADES:g}}}" for step in range(_SHADES + 1)) + (
    ".cell.mark{stroke:var(--rule);stroke-width:1}figure.whole{grid-column:1/-1}\n"
)


def confusion_figure(found: Evaluation) -> ReportFigure | None:
    """Return the confusion matrix; None with too many classes."""
    labels = [figures.label for figures in found.classes]
    if len(labels) > MOST_CLASSES:
        return None
    edge = len(labels) * _CELL
    plot = Plot(width=max(_LEAST_WIDTH, _LEFT + edge + 4), height=_TOP + edge + 4, x_range=(0, 1), y_range=(0, 1))
    parts = [charts.text(_LEFT, 12, "Answer", style="title")]
    for row, cells in enumerate(found.confusion):
        y, support = _TOP + row * _CELL, sum(cells)
        parts.append(charts.text(_LEFT - 8, y + 21, f"{shorten(labels[row], 18)}  {row}", anchor="end", style="name"))
        parts.append(charts.text(_LEFT + (row + 0.5) * _CELL, _TOP - 6, str(row), anchor="middle"))
        for column, number in enumerate(cells):
            x, share = _LEFT + column * _CELL, number / support if support else 0.0
            shade = max(1, round(_SHADES * share)) if number else 0
            title = f"{labels[row]} answered as {labels[column]}: {number:,} of {support:,}"
            parts.append(charts.bar(x, y, _CELL - 2, _CELL - 2, f"cell h{shade}", title))
            if number:
                parts.append(charts.text(x + _CELL / 2 - 1, y + 21, f"{number:,}", anchor="middle", style="name"))
    wrong = found.top1.of - found.top1.right
    return ReportFigure(
        name="matrix",
        title="Confusion matrix",
        pictures=[("", plot.svg(f"Confusion matrix of {len(labels)} classes", "".join(parts)))],
        words="Rows are the images' classes, columns the answers; the darker, the larger the share of the row. "
        f"{wrong:,} of {count(found.top1.of, 'image')} lie beside the diagonal.",
        table=Table(
            caption="Images by class and answer",
            headings=["Class", *labels],
            rows=[[labels[row], *(f"{number:,}" for number in cells)] for row, cells in enumerate(found.confusion)],
        ),
        style="whole" if len(labels) > _BESIDE_ANOTHER else "",
    )


def calibration_figure(calibration: Calibration | None) -> ReportFigure | None:
    """Return right answers by probability; None where the model gives no probabilities."""
    if calibration is None:
        return None
    plot = Plot(width=460, height=340, x_range=(0, 1), y_range=(0, 1))
    parts = [plot.axes("Probability of the answer", "Share of right answers")]
    for found in calibration.bins:
        if found.accuracy is None or found.confidence is None:
            continue
        left, right, top = plot.x(found.low), plot.x(found.high), plot.y(found.accuracy)
        title = (
            f"{count(found.num_images, 'image')}: mean probability {found.confidence:.3f}, {percent(found.accuracy)} "
            "right"
        )
        parts.append(charts.bar(left + 1, top, right - left - 2, plot.y(0) - top, "s0", title))
    parts.append(charts.line([(plot.x(0), plot.y(0)), (plot.x(1), plot.y(1))], 1, extra="dashed"))
    rows = [
        [
            f"{found.low:.3f} to {found.high:.3f}",
            f"{found.num_images:,}",
            decimal(found.confidence, 3),
            decimal(found.accuracy, 3),
        ]
        for found in calibration.bins
    ]
    return ReportFigure(
        name="reliability",
        title="Calibration",
        pictures=[("", plot.svg("Share of right answers by the probability of the answer", "".join(parts)))],
        words="Of perfectly calibrated probabilities the bars end on the dashed line. The expected calibration error "
        f"is {percent(calibration.error, 2)}, over {len(calibration.bins)} bins of equal width; bins without images "
        f"have no bar ({MISSING} in the table).",
        legend=[
            (charts.fill_swatch("sample s0"), "share right"),
            (charts.swatch(1, dashed=True), "perfect calibration"),
        ],
        table=Table(
            caption="Bins of the calibration error",
            headings=["Probability", "Images", "Mean probability", "Share right"],
            rows=rows,
        ),
    )
