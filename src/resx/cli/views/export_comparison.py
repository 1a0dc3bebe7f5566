"""A comparison of forms for people: one table, the reasons of those that failed, and what was picked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.flowing_text import print_text
from resx.cli.marks import mark, show_done, show_next
from resx.cli.output import print_lines, table
from resx.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from resx.bench.exports.comparison import ExportComparison, Form, RoundSpread

_COLUMNS = ("form", "MB", "max error", "accuracy %", "flips", "p50 ms", "images/s", "memory MB")
_LEAST = ("memory MB", "max error", "flips")


def show_comparison(console: Console, found: ExportComparison, folder: Path | None, next_step: str) -> None:
    """Print the forms side by side, why some failed, which one was picked, and the command that comes next."""
    measured, failed = found.measured, [form for form in found.forms if form.failed]
    show_done(
        console,
        f"Compared {len(measured)} form{'s' * (len(measured) > 1)} of {found.source}"
        if measured
        else f"No form of {found.source} was measured",
        found.images.origin if found.images else "",
        f"{found.processor}, {found.cores} core{'s' * (found.cores > 1)}",
        good=bool(measured),
    )
    if measured:
        has_accuracy = any(form.accuracy for form in measured)
        places = [at for at, name in enumerate(_COLUMNS) if has_accuracy or name not in ("accuracy %", "flips")]
        rows = [[_row(form)[at] for at in places] for form in found.forms]
        console.print(table("", [_COLUMNS[at] for at in places], rows, least=_LEAST))
        print_lines(console, _legend(found, measured[0], has_accuracy=has_accuracy))
    for form in failed:
        from rich.text import Text

        line = Text.assemble(mark(console, good=False), f" {one_line(f'{form.name}: {form.failed}')}")
        print_text(console, line)
    if found.best is not None and found.picked is None:
        print_lines(console, [f"best: {found.best} ({_rule(found)})"])
    if found.picked is not None:
        picked = found.picked
        show_done(
            console,
            f"Published {picked.form} as {picked.name} v{picked.version}",
            f"the best form that meets {picked.conditions} ({_rule(found)})",
        )
    if folder is not None:
        print_lines(console, [f"wrote {folder / 'compare.html'} and {folder / 'compare.json'}"])
    show_next(console, next_step)


def _rule(found: ExportComparison) -> str:
    return "highest accuracy, then lowest latency" if found.images else "lowest latency"


def _legend(found: ExportComparison, form: Form, *, has_accuracy: bool) -> list[str]:
    assert form.speed is not None
    single, batch = form.speed.single_batch, form.speed.batch_size
    lines = [
        f"*: no other form is as good in {found.front_by}",
        f"p50 at batch {single}, images/s at batch {batch}: median of {found.rounds} round{'s' * (found.rounds > 1)}, "
        "plus or minus half their range",
    ]
    if has_accuracy:
        lines.append("accuracy with 95% intervals (Wilson); flips: images with a different answer than in fp32")
    return lines


def _row(form: Form) -> list[str]:
    if form.failed or form.speed is None:
        return [form.name, "failed", *([""] * (len(_COLUMNS) - 2))]
    accuracy, memory = form.accuracy, form.speed.memory_bytes
    return [
        f"{form.name} *" if form.on_front else form.name,
        f"{(form.size_bytes or 0) / 1e6:.2f}",
        f"{form.parity.max_abs:.1g}" if form.parity else "n/a",
        f"{100 * accuracy.share:.1f} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})" if accuracy else "n/a",
        f"{form.flips.num_flips:,}" if form.flips else "",
        _spread(form.speed.p50_ms),
        _spread(form.speed.images_per_s),
        "n/a" if memory is None else f"{memory / 1e6:.0f}",
    ]


def _spread(spread: RoundSpread) -> str:
    """Return a median and, if there is one, half the range, with the decimals that three digits of the median have."""
    decimals = max(0, 2 - len(str(int(spread.median))) + 1) if spread.median >= 1 else 3
    if spread.low == spread.high:
        return f"{spread.median:,.{decimals}f}"
    return f"{spread.median:,.{decimals}f} ±{spread.half_range:,.{decimals}f}"
