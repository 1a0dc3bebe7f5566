"""Charts that set models side by side: accuracy against latency, and ratios with their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from resx.bench.report import charts
from resx.bench.report.charts import Plot
from resx.bench.report.html_parts import ReportFigure, Table, brief, count, decimal, percent, shorten
from resx.bench.results.result import BenchResult, Measurement, Ratio
from resx.pareto import pareto_front

_ROW, _LONGEST = 46, 32
"""Height of a ratio, and characters of a model's name."""
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""
_MEASURES = {"images_per_s": "images per second", "p50_ms": "p50", "p99_ms": "p99"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedModel:
    """A model whose accuracy and latency are known."""

    name: str
    accuracy: float
    """Share of right answers."""
    p50_ms: float
    detail: str
    """What else its card says, in words."""


def members(results: Sequence[BenchResult]) -> tuple[str, list[ComparedModel]]:
    """Return the load that the models share, and those of them whose accuracy and p50 at that load are known.

    The load is the one that most models have been measured with, the first of several; of a model's runs at that
    load the fastest p50 counts.
    """
    facts = {name: known for result in results for name, known in result.models.items() if _accuracy(known)}
    times: dict[str, dict[str, float]] = {}
    for measured in (m for result in results for m in result.measurements if not m.invalid):
        name = next((key for key in (measured.target, measured.model) if key in facts), None)
        if name is not None and measured.p50_ms is not None:
            at_load = times.setdefault(_load(measured), {})
            at_load[name] = min(measured.p50_ms, at_load.get(name, measured.p50_ms))
    if not times:
        return "", []
    load = max(times, key=lambda title: len(times[title]))
    found = [
        ComparedModel(name=name, accuracy=_accuracy(facts[name]), p50_ms=ms, detail=_detail(facts[name]))
        for name, ms in times[load].items()
    ]
    return load, sorted(found, key=lambda member: (member.p50_ms, -member.accuracy, member.name))


def pareto(results: Sequence[BenchResult]) -> ReportFigure | None:
    """Return accuracy against latency; None where fewer than two models have both."""
    load, found = members(results)
    if len(found) < 2:
        return None
    best = pareto_front(found, lambda one: (one.p50_ms, -one.accuracy))
    x_range = _padded([member.p50_ms for member in found], 0.0)
    plot = Plot(
        width=460,
        height=320,
        x_range=x_range,
        y_range=_padded([100 * m.accuracy for m in found], 0.0),
        left=52,
    )
    parts = [plot.axes(f"p50 at {load}, ms", "accuracy, %")]
    places = [(plot.x(member.p50_ms), plot.y(100 * member.accuracy)) for member in found]
    parts.append(charts.line([_at(plot, member) for member in best], 0))
    for member, place in zip(found, places, strict=True):
        told = f"{member.name}: {percent(member.accuracy, 2)} right, p50 {brief(member.p50_ms)} ms"
        told += f"; {member.detail}" if member.detail else ""
        on_front = member in best
        parts.append(charts.mark(*place, 0 if on_front else 1, told, hollow=not on_front, size=4.2))
    for member, (x, y, anchor) in zip(found, _label_places(plot, found, places), strict=True):
        parts.append(charts.text(x, y, shorten(member.name, _LONGEST), anchor=anchor, style="name"))
    beaten = [member.name for member in found if member not in best]
    return ReportFigure(
        name="pareto",
        title="Accuracy against latency",
        pictures=[("", plot.svg(f"Accuracy against latency of {len(found)} models", "".join(parts)))],
        legend=[(charts.swatch(0), "no other is both faster and better")]
        + ([(charts.swatch(1, hollow=True).replace("line ", "none "), "another is")] if beaten else []),
        words=f"{count(len(best), 'model')} of {len(found)} on the front, from {best[0].name} "
        f"({percent(best[0].accuracy, 2)} right, {brief(best[0].p50_ms)} ms) to {best[-1].name} "
        f"({percent(best[-1].accuracy, 2)}, {brief(best[-1].p50_ms)} ms)."
        + (f" Beaten in both: {', '.join(beaten)}." if beaten else ""),
        table=Table(
            caption=f"Accuracy against latency at {load}",
            headings=["Model", "Accuracy, %", "p50, ms", "On the front", "Also known"],
            words=frozenset({3, 4}),
            rows=[
                [m.name, decimal(100 * m.accuracy), decimal(m.p50_ms), "yes" if m in best else "no", m.detail]
                for m in found
            ],
        ),
    )


def _at(plot: Plot, member: ComparedModel) -> tuple[float, float]:
    return plot.x(member.p50_ms), plot.y(100 * member.accuracy)


def _load(measured: Measurement) -> str:
    return measured.title + (f", batch {measured.batch_size}" if measured.batch_size != 1 else "")


def _accuracy(facts: dict[str, object]) -> float:
    """Return a share, 0 where there is none."""
    value = facts.get("accuracy")
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else 0.0


def _detail(facts: dict[str, object]) -> str:
    kept, blocks = facts.get("kept_blocks"), facts.get("blocks")
    parts = [f"{kept} of {blocks} blocks"] if kept is not None and blocks is not None else []
    others = [f"{key.replace('_', ' ')} {facts[key]}" for key in ("family", "precision") if facts.get(key)]
    return ", ".join([*parts, *others])


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    step = charts.nice_step((high - low) or abs(high) or 1.0)
    return max(least, step * ((low - 0.4 * step) // step)), step * ((high + 0.4 * step) // step + 1)


def _label_places(
    plot: Plot, found: Sequence[ComparedModel], places: Sequence[tuple[float, float]]
) -> list[tuple[float, float, str]]:
    """Return where each name stands: the first place around its mark that is free, right of it if none is."""
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    chosen = []
    for member, (x, y) in zip(found, places, strict=True):
        width = 6.6 * min(len(member.name), _LONGEST)
        tries = [
            (x + dx, y + dy, anchor)
            for distance in (0, 13, 26, 39)
            for dx, dy, anchor in (
                (8, 4 + distance, "start"),
                (-8, 4 + distance, "end"),
                (0, -9 - distance, "middle"),
                (0, 17 + distance, "middle"),
                (8, 4 - distance, "start"),
                (-8, 4 - distance, "end"),
            )
        ]
        boxes = [_text_box(*place, width) for place in tries]
        free = [
            number
            for number, box in enumerate(boxes)
            if box[0] >= plot.left and box[2] <= plot.width and not any(_meet(box, other) for other in taken)
        ]
        best = free[0] if free else 0
        taken.append(boxes[best])
        chosen.append(tries[best])
    return chosen


def _text_box(x: float, y: float, anchor: str, width: float) -> Box:
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
    return left, y - 10, left + width, y + 3


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def ratios(found: Sequence[Ratio]) -> ReportFigure | None:
    """Return each ratio with its interval beside 1; None if nothing was compared."""
    if not found:
        return None
    low, high = min(1.0, *(r.low for r in found)), max(1.0, *(r.high for r in found))
    pad = (high / low) ** 0.06
    plot = Plot(
        width=460,
        height=28 + _ROW * len(found) + 40,
        x_range=(max(low / pad, 0.01), min(high * pad, 100.0)),
        y_range=(0.0, 1.0),
        x_log=True,
        left=14,
        top=4,
    )
    foot = plot.height - plot.bottom
    ticks = _ratio_ticks(*plot.x_range)
    parts = [
        f'<line class="{"one" if tick == 1 else "grid"}" x1="{plot.x(tick):.1f}" x2="{plot.x(tick):.1f}" '
        f'y1="{plot.top}" y2="{foot}"/>' + charts.text(plot.x(tick), foot + 17, f"{tick:g}", anchor="middle")
        for tick in ticks
    ]
    parts.append(
        charts.text(plot.width - plot.right, plot.height - 5, "ratio (logarithmic)", anchor="end", style="title")
    )
    for number, ratio in enumerate(found):
        y = 34.0 + number * _ROW
        name = f"{shorten(ratio.target, 18)} to {shorten(ratio.base, 18)}, {_MEASURES[ratio.what]}: {ratio.ratio:.3f}"
        parts.append(charts.text(plot.left, y - 14, name, style="name"))
        parts.append(
            f'<line class="interval s0" x1="{plot.x(ratio.low):.1f}" x2="{plot.x(ratio.high):.1f}" y1="{y}" y2="{y}"/>'
        )
        told = f"{name}, between {ratio.low:.3f} and {ratio.high:.3f}"
        parts.append(charts.mark(plot.x(ratio.ratio), y, 0, told, size=4.5))
    return ReportFigure(
        name="ratios",
        title="Compared, pair by pair",
        pictures=[("", plot.svg("Ratios with 95 % confidence intervals beside 1", "".join(parts)))],
        words="Geometric means over interleaved pairs, with 95 % confidence intervals; an interval that holds 1 shows "
        "no difference. " + " ".join(f"{r.target}: {_read(r)}." for r in found),
        table=Table(
            caption="Ratios to the first target",
            headings=["Target", "To", "Load", "Of", "Ratio", "Low", "High", "Pairs", "In words"],
            words=frozenset({1, 2, 3, 8}),
            rows=[
                [
                    r.target,
                    r.base,
                    r.load,
                    _MEASURES[r.what],
                    f"{r.ratio:.3f}",
                    f"{r.low:.3f}",
                    f"{r.high:.3f}",
                    str(r.num_pairs),
                    _read(r),
                ]
                for r in found
            ],
        ),
    )


def _read(ratio: Ratio) -> str:
    what = _MEASURES[ratio.what]
    if ratio.low <= 1 <= ratio.high:
        return f"no difference shown in {what}"
    more = "higher" if ratio.ratio > 1 else "lower"
    better = (ratio.ratio > 1) == (ratio.what == "images_per_s")
    return f"{what} {percent(abs(ratio.ratio - 1))} {more}, which is {'better' if better else 'worse'}"


def _ratio_ticks(low: float, high: float) -> list[float]:
    if high / low > 3:
        steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        return [step for step in steps if low <= step <= high]
    step = charts.nice_step(high - low)
    first, last = int((low - 1) / step) - 1, int((high - 1) / step) + 1
    return [value for n in range(first, last + 1) if low <= (value := round(1 + n * step, 9)) <= high]
