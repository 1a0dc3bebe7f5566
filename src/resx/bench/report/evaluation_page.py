"""One HTML file that shows an evaluation: figures with their intervals, confused classes and some of their images.

The file needs nothing else: no network, no script, no font. Images are data in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from resx._version import __version__
from resx.analysis.classification.evaluation import ClassFigures, Evaluation, Share
from resx.analysis.classification.paired_comparison import PairedComparison
from resx.bench.report import evaluation_charts, image_tiles
from resx.bench.report.evaluation_charts import calibration_figure, confusion_figure
from resx.bench.report.html_page import page
from resx.bench.report.html_parts import MISSING, Table, count, percent
from resx.bench.report.image_tiles import Tile, tiles_html

_MOST_FLIPS = 200
"""That the page lists; --json has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImages:
    """The images that a page shows."""

    confused: Sequence[Sequence[Tile]] = ()
    """Of each of the most confused pairs of classes, as far as they are shown."""
    flipped: Sequence[Tile] = ()


def html(
    found: Evaluation, images: PageImages, *, against: Evaluation | None, paired: PairedComparison | None, command: str
) -> str:
    """Return the page of an evaluation; `against` and `paired` where another model answered the same images."""
    subtitle = " · ".join([escape(found.images.origin), *([f"<code>{escape(command)}</code>"] if command else [])])
    sections = [
        ("result", "", _result(found)),
        ("paired", "Compared", _paired(found, against, paired, images.flipped)),
        ("confused", "Most confused", _confused(found, images.confused)),
        ("pictures", "Matrix and calibration", _figures(found)),
        ("classes", "Every class", _classes(found.classes)),
        ("reading", "How to read this", _reading()),
    ]
    return page(
        f"{found.model}: evaluation",
        subtitle=f'<p class="subtitle">{subtitle}</p>',
        sections=sections,
        first="result",
        resx=__version__,
        style=evaluation_charts.STYLE + image_tiles.STYLE,
        with_images=True,
    )


def interval(share: Share | None) -> str:
    """Return a share with its interval, in percent."""
    if share is None:
        return MISSING
    return f"{percent(share.share)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _result(found: Evaluation) -> str:
    top1 = found.top1
    remarks = [
        *(["The weights are random: nobody trained this model, and its answers mean nothing."] * found.random_weights),
        *(["Classes were matched by their position, not by name."] if found.classes_matched_by == "position" else []),
        *(
            [f"{count(found.images.num_skipped, 'image')} that cannot be read were left out of the data."]
            if found.images.num_skipped
            else []
        ),
    ]
    listed = f"<ul>{''.join(f'<li>{escape(remark)}</li>' for remark in remarks)}</ul>" if remarks else ""
    return (
        f'<div class="verdict{" bad" if found.random_weights else ""}"><h2><b>{percent(top1.share, 2)}</b>: '
        f"{top1.right:,} of {escape(found.images.origin)} answered right</h2>{listed}</div>{_facts(found)}"
    )


def _facts(found: Evaluation) -> str:
    top1, top5, calibration = found.top1, found.top5, found.calibration
    facts = [("Top-1", percent(top1.share, 2), _bounds(top1))]
    if top5 is not None:
        facts.append(("Top-5", percent(top5.share, 2), _bounds(top5)))
    facts.append(("Macro F1", percent(found.macro.f1, 2), f"weighted {percent(found.weighted.f1, 2)}"))
    if calibration is not None:
        facts.append(("Calibration error", percent(calibration.error, 2), f"{len(calibration.bins)} bins"))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in facts
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _bounds(share: Share) -> str:
    return f"95 % interval {100 * share.low:.2f} to {100 * share.high:.2f} %"


def _paired(
    found: Evaluation, against: Evaluation | None, paired: PairedComparison | None, tiles: Sequence[Tile]
) -> str:
    if against is None or paired is None:
        return ""
    models = [
        [one.model, interval(one.top1), interval(one.top5), percent(one.macro.f1),
         MISSING if one.calibration is None else percent(one.calibration.error, 2)]
        for one in (found, against)
    ]  # fmt: skip
    outcomes = [
        ["Both right", f"{paired.both_right:,}"],
        [f"Only {paired.first} right", f"{paired.only_first_right:,}"],
        [f"Only {paired.second} right", f"{paired.only_second_right:,}"],
        ["Both wrong", f"{paired.both_wrong:,}"],
    ]
    flips = [[flip.image, flip.label, flip.first, flip.second] for flip in paired.flips[:_MOST_FLIPS]]
    more = f", the first {_MOST_FLIPS}" if paired.num_flips > _MOST_FLIPS else ""
    table = Table(
        caption=f"Images answered differently{more}",
        headings=["Image", "Class", paired.first, paired.second],
        rows=flips,
        words=frozenset({1, 2, 3}),
    )
    return (
        Table(
            caption="Both models, with 95 % intervals",
            headings=["Model", "Top-1", "Top-5", "Macro F1", "Calibration error"],
            rows=models,
        ).html()
        + f"<p>{escape(paired_words(paired))}</p>"
        + Table(caption="Image by image", headings=["Answers", "Images"], rows=outcomes).html()
        + tiles_html(tiles)
        + (f"<details><summary>The images</summary>{table.html()}</details>" if flips else "")
    )


def paired_words(paired: PairedComparison) -> str:
    """Return what a paired comparison says, in words."""
    bounds = ""
    if paired.low is not None and paired.high is not None:
        bounds = f" (95 % interval {100 * paired.low:+.2f} to {100 * paired.high:+.2f})"
    return (
        f"{paired.second} against {paired.first}: {100 * paired.difference:+.2f} points of top-1{bounds}; "
        f"McNemar's exact test: p = {paired.p_value:.3g}. "
        f"{count(paired.num_flips, 'image')} of {paired.num_images:,} answered differently."
    )


def _confused(found: Evaluation, tiles: Sequence[Sequence[Tile]]) -> str:
    if not found.most_confused:
        return "<p>No image is answered wrong.</p>"
    rows = [[pair.label, pair.answered, f"{pair.num_images:,}", percent(pair.share)] for pair in found.most_confused]
    table = Table(
        caption="Classes and the wrong answers they get most often",
        headings=["Class", "Answered as", "Images", "Of the class"],
        rows=rows,
        words=frozenset({1}),
    )
    shown = "".join(
        f"<h3>{escape(pair.label)} answered as {escape(pair.answered)}</h3>{tiles_html(some)}"
        for pair, some in zip(found.most_confused, tiles, strict=False)
        if some
    )
    return table.html() + shown


def _figures(found: Evaluation) -> str:
    figures = [confusion_figure(found), calibration_figure(found.calibration)]
    shown = "".join(figure.html() for figure in figures if figure is not None)
    return f'<div class="plates">{shown}</div>' if shown else ""


def _classes(classes: Sequence[ClassFigures]) -> str:
    rows = [
        [
            one.label,
            f"{one.support:,}",
            interval(one.precision),
            interval(one.recall),
            MISSING if one.f1 is None else percent(one.f1),
        ]
        for one in classes
    ]
    return Table(
        caption="Precision and recall with 95 % intervals",
        headings=["Class", "Images", "Precision", "Recall", "F1"],
        rows=rows,
    ).html()


def _reading() -> str:
    items = (
        "Top-1 is the share of images whose most likely class is their own; top-5, where their own is among the five "
        "most likely. Intervals are Wilson's, at 95 %.",
        "Precision is the share of the answers of a class that are right, recall the share of its images. F1 is the "
        f"harmonic mean of both. {MISSING} stands where a class has no answers or no images.",
        "Macro figures count every class the same, weighted ones by its images; both leave out classes without images.",
        "The expected calibration error is the mean distance between the probability of the answer and the share of "
        "right answers, over bins of equal width, weighted by their images.",
        "McNemar's exact test looks at the images that one model alone gets right: p is the chance of a split at least "
        "as uneven if both were equally good.",
    )
    return f'<div class="reading"><ul>{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul></div>'
