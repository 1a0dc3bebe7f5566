"""One HTML file that shows a comparison of forms: which is best, all of them in a picture and in a table.

The file needs nothing else: no network, no script, no font.
"""

from __future__ import annotations

from html import escape

from resx.bench.exports.chart import front_figure, throughput_figure
from resx.bench.exports.comparison import ExportComparison, Form, RoundSpread, latency_ms
from resx.bench.report.html_page import page
from resx.bench.report.html_parts import MISSING, Table, brief, count, decimal, percent


def html(found: ExportComparison) -> str:
    """Return the page."""
    origin = [escape(found.images.origin)] if found.images else []
    machine = f"{escape(found.processor)}, {count(found.cores, 'core')}"
    subtitle = " · ".join([*origin, machine, f"<code>{escape(found.command)}</code>"])
    sections = [
        ("result", "", _result(found)),
        ("front", "Which is better in what", _picture(found)),
        ("forms", "Every form", _forms(found)),
        ("failed", "Forms that failed", _failed(found)),
        ("reading", "How to read this", _reading(found)),
    ]
    return page(
        f"{found.source}: forms compared",
        subtitle=f'<p class="subtitle">{subtitle}</p>',
        sections=sections,
        first="result",
        resx=found.resx,
    )


def _result(found: ExportComparison) -> str:
    best = next(
        (form for form in found.forms if form.name == (found.picked.form if found.picked else found.best)), None
    )
    if best is None:
        return '<div class="verdict bad"><h2><b>No form</b> was exported and measured</h2></div>'
    rule = "highest accuracy, then lowest latency" if found.images else "lowest latency"
    words = f"the best form ({rule})"
    if found.picked is not None:
        words = (
            f"published as {found.picked.name} version {found.picked.version}: the best form that meets "
            f"{found.picked.conditions} ({rule})"
        )
    warning = "<ul><li>The weights are random: nobody trained this model.</li></ul>" if found.random_weights else ""
    return (
        f'<div class="verdict{" bad" if found.random_weights else ""}"><h2><b>{escape(best.name)}</b>: '
        f"{escape(words)}</h2>{warning}</div>{_facts(best)}"
    )


def _facts(best: Form) -> str:
    assert best.speed is not None
    speed = best.speed
    facts = [
        ("Median latency", f"{brief(latency_ms(best))} ms", f"at batch {speed.single_batch}"),
        ("Throughput", f"{brief(speed.images_per_s.median)} images/s", f"at batch {speed.batch_size}"),
        ("Size", f"{brief((best.size_bytes or 0) / 1e6)} MB", best.precision),
    ]
    if best.accuracy is not None:
        bounds = f"95 % interval {100 * best.accuracy.low:.2f} to {100 * best.accuracy.high:.2f} %"
        facts.insert(0, ("Accuracy", percent(best.accuracy.share, 2), bounds))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in facts
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _picture(found: ExportComparison) -> str:
    figures = [figure.html() for figure in (front_figure(found), throughput_figure(found)) if figure is not None]
    return f'<div class="plates">{"".join(figures)}</div>' if figures else ""


def _forms(found: ExportComparison) -> str:
    measured = found.measured
    if not measured:
        return ""
    has_accuracy = any(form.accuracy for form in measured)
    headings = ["Form", "Front", "Size, MB", "Max error", *(["Accuracy", "Flips", "McNemar's p"] * has_accuracy),
                "p50, ms", "Images/s", "Memory, MB"]  # fmt: skip
    rows = [_row(form, has_accuracy=has_accuracy) for form in measured]
    rounds = count(found.rounds, "round")
    medians = Table(caption=f"Medians of {rounds}", headings=headings, rows=rows).html()
    ranges = Table(
        caption=f"Lowest and highest of {rounds}",
        headings=["Form", "p50, ms", "Images/s", "Threads"],
        rows=[_ranges(form) for form in measured],
    )
    return f"{medians}<details><summary>The range of the rounds</summary>{ranges.html()}</details>"


def _row(form: Form, *, has_accuracy: bool) -> list[str]:
    assert form.speed is not None
    speed, flips, share = form.speed, form.flips, form.accuracy
    accuracy = [
        f"{percent(share.share)} ({100 * share.low:.1f} to {100 * share.high:.1f})" if share else MISSING,
        f"{flips.num_flips:,}" if flips else "–",
        f"{flips.p_value:.3g}" if flips else "–",
    ]
    return [
        form.name,
        "yes" if form.on_front else "–",
        decimal((form.size_bytes or 0) / 1e6),
        f"{form.parity.max_abs:.2g}" if form.parity else MISSING,
        *(accuracy if has_accuracy else []),
        decimal(speed.p50_ms.median, 3),
        decimal(speed.images_per_s.median, 0),
        MISSING if speed.memory_bytes is None else decimal(speed.memory_bytes / 1e6, 0),
    ]


def _ranges(form: Form) -> list[str]:
    assert form.speed is not None
    speed = form.speed
    return [form.name, _range(speed.p50_ms, 3), _range(speed.images_per_s, 0), str(speed.threads)]


def _range(spread: RoundSpread, digits: int) -> str:
    return f"{decimal(spread.low, digits)} to {decimal(spread.high, digits)}"


def _failed(found: ExportComparison) -> str:
    rows = "".join(f"<dt>{escape(form.name)}</dt><dd>{escape(form.failed)}</dd>" for form in found.forms if form.failed)
    return f'<dl class="rows">{rows}</dl>' if rows else ""


def _reading(found: ExportComparison) -> str:
    items = [
        "Each form was exported and verified against its source; one that failed is not measured.",
        f"Forms were measured in turns, in {count(found.rounds, 'round')} of {found.duration_s:g} s each, every one "
        "in a process of its own without a server. A server adds its protocol and its queue.",
        "The max error is the largest difference between the file's logits and its source's.",
        "Memory is by how much the process grew when it opened and ran the file: runtime, weights and working memory.",
        f"A form is on the front if no other is as good or better in both {found.front_by}.",
    ]
    if found.images is not None:
        items.append(
            "Accuracy is top-1, with Wilson's 95 % interval. Flips are images that the form answers otherwise than the "
            "first fp32 form, right or wrong; McNemar's exact test asks whether one of the two is right more often "
            "than by chance."
        )
    return f'<div class="reading"><ul>{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul></div>'
