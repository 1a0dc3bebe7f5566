"""An evaluation for people, in 80 columns but for names that are longer, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.marks import show_done, show_next
from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.classification.evaluation import ClassFigures, Evaluation, Share
    from resx.analysis.classification.paired_comparison import PairedComparison

_MOST_CLASSES, _MOST_IN_MATRIX, _CONFUSED, _FLIPS = 20, 12, 5, 10
_MOST_IN_NAME = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundEvaluations:
    """One model's evaluation, or two models' and their comparison."""

    evaluations: tuple[Evaluation, ...]
    paired: PairedComparison | None


def evaluation_as_json(found: FoundEvaluations) -> dict[str, Any]:
    """Return what `--json` prints: the evaluation, and with --against the other's and their comparison."""
    first, *others = (one.model_dump(mode="json") for one in found.evaluations)
    if found.paired is None:
        return first
    return first | {"against": others[0], "comparison": found.paired.model_dump(mode="json")}


def show_evaluation(
    console: Console, found: FoundEvaluations, *, every_class: bool, page: Path | None, next_step: str
) -> None:
    """Print a model's figures, its classes and confusions; of another its figures, and how the two differ."""
    first, *others = found.evaluations
    _show_figures(console, first)
    print_lines(console, ["in parentheses: 95 % intervals (Wilson)"])
    _show_classes(console, first.classes, every_class=every_class)
    if len(first.classes) <= _MOST_IN_MATRIX:
        _show_matrix(console, first)
    _show_confused(console, first)
    for other in others:
        _show_figures(console, other)
    if found.paired is not None:
        _show_pair(console, found.paired)
    if page is not None:
        print_lines(console, [f"wrote {page}"])
    show_next(console, next_step)


def _show_figures(console: Console, found: Evaluation) -> None:
    skipped = f"skipped {found.images.num_skipped} that cannot be read" if found.images.num_skipped else ""
    matched = "" if found.classes_matched_by == "name" else "classes matched by position"
    right = f"top-1 {_interval(found.top1, ' %')}"
    show_done(console, f"Evaluated {found.model}", found.images.origin, skipped, matched, right)
    macro, calibration = found.macro, found.calibration
    bins = "none, as its outputs are no probabilities of the classes"
    if calibration is not None:
        bins = f"error {100 * calibration.error:.2f} % (ECE, {len(calibration.bins)} bins of equal width)"
    lines = [
        f"right: {found.top1.right:,} of {found.images.num_images:,}",
        *([] if found.top5 is None else [f"top-5: {_interval(found.top5, ' %')}"]),
        f"macro: precision {100 * macro.precision:.1f} %, recall {100 * macro.recall:.1f} %, "
        f"F1 {100 * macro.f1:.1f} %; weighted F1 {100 * found.weighted.f1:.1f} %",
        f"calibration: {bins}",
    ]
    print_lines(console, lines)


def _show_confused(console: Console, found: Evaluation) -> None:
    if found.most_confused:
        pairs = found.most_confused[:_CONFUSED]
        rows = [[_short(p.label), _short(p.answered), f"{p.num_images:,}", f"{100 * p.share:.1f}"] for p in pairs]
        console.print(table("Most confused", ["class", "answered as", "images", "of the class %"], rows, left=2))


def _show_classes(console: Console, classes: tuple[ClassFigures, ...], *, every_class: bool) -> None:
    """Print every class; of many those with the lowest F1."""
    shown = list(classes)
    is_cut = len(shown) > _MOST_CLASSES and not every_class
    if is_cut:
        shown = sorted((one for one in shown if one.f1 is not None), key=lambda one: one.f1 or 0.0)[:_MOST_CLASSES]
    rows = [
        [
            _short(one.label),
            f"{one.support:,}",
            _interval(one.precision),
            _interval(one.recall),
            "n/a" if one.f1 is None else f"{100 * one.f1:.1f}",
        ]
        for one in shown
    ]
    title = f"The {len(shown)} of {len(classes)} classes with the lowest F1; --all shows every class" if is_cut else ""
    console.print(table(title, ["class", "images", "precision %", "recall %", "F1 %"], rows))


def _show_matrix(console: Console, found: Evaluation) -> None:
    columns = [str(number) for number in range(len(found.classes))]
    rows = [
        [f"{number} {_short(one.label)}", *(f"{count:,}" if count else "" for count in cells)]
        for number, (one, cells) in enumerate(zip(found.classes, found.confusion, strict=True))
    ]
    console.print(table("Confusion matrix: classes down, answers across", ["", *columns], rows, is_matrix=True))


def _show_pair(console: Console, paired: PairedComparison) -> None:
    from resx.bench.report.evaluation_page import paired_words

    rows = [
        ["both right", f"{paired.both_right:,}"],
        [f"only {paired.first} right", f"{paired.only_first_right:,}"],
        [f"only {paired.second} right", f"{paired.only_second_right:,}"],
        ["both wrong", f"{paired.both_wrong:,}"],
    ]
    print_lines(console, [paired_words(paired)])
    console.print(table("", ["answers", "images"], rows))
    if paired.flips:
        flips = [[flip.image, flip.label, flip.first, flip.second] for flip in paired.flips[:_FLIPS]]
        more = f"; the first {_FLIPS}, --json has all" if len(paired.flips) > _FLIPS else ""
        title = f"Answered differently{more}"
        console.print(table(title, ["image", "class", paired.first, paired.second], flips, left=4))


def _interval(share: Share | None, unit: str = "") -> str:
    if share is None:
        return "n/a"
    return f"{100 * share.share:.1f}{unit} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _short(name: str) -> str:
    return name if len(name) <= _MOST_IN_NAME else f"{name[: _MOST_IN_NAME - 1]}…"
