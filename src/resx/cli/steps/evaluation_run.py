"""One run of `resx evaluate`: open the models, load the images, ask, compare, write the page."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.evaluation import ImagesWanted
from resx.cli.output import Output
from resx.cli.steps.evaluated_models import Asking
from resx.cli.views.evaluation import FoundEvaluations
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.bench.report.evaluation_page import PageImages
    from resx.scoring.evaluation.comparing import EvaluatedTogether
    from resx.scoring.evaluation.evaluating import Evaluated
    from resx.scoring.evaluation.images import EvaluationImages

_PAIRS, _OF_A_PAIR, _FLIPS = 8, 6, 24
"""Images on a page: of so many pairs of confused classes so many each, and of those that two models answer apart."""


def evaluate_and_compare(
    things: Sequence[str], asking: Asking, wanted: ImagesWanted, page: Path | None, out: Output
) -> FoundEvaluations:
    """Evaluate one model or two on the same images, and write the page if one is wanted.

    Raises:
        UsageError: a model, the data or an image cannot be used, or they do not belong together.
        ResxError: a model fails.
    """
    from resx.scoring.evaluation.comparing import evaluate_models
    from resx.scoring.evaluation.opening import open_model

    with out.steps() as step, contextlib.ExitStack() as opened:
        step("load the model" if len(things) == 1 else "load the models")
        places = asking.places(is_alone=len(things) == 1)
        models = [open_model(text, places, opened) for text in things]
        if asking.server.url and not any(model.subject.kind == "served" for model in models):
            raise UsageError(f"--url {asking.server.url}: {things[0]} is computed here; remove the option")
        together = evaluate_models(models, wanted.asked(), on_step=step, on_remark=out.note)
        if page is not None:
            step(f"write {page}")
            # Headers may be secrets, and a page is passed on.
            command = "" if asking.server.access.header else shlex.join(["resx", *sys.argv[1:]])
            _write(page, together, command)
    return FoundEvaluations(evaluations=together.evaluations, paired=together.paired)


def _write(page: Path, together: EvaluatedTogether, command: str) -> None:
    from resx.bench.report.evaluation_page import html
    from resx.files.staging import write_atomic

    first, *others = together.evaluations
    content = html(
        first,
        _page_images(together.found, together.images),
        against=others[0] if others else None,
        paired=together.paired,
        command=command,
    )
    write_atomic(page, content)


def _page_images(found: Sequence[Evaluated], images: EvaluationImages) -> PageImages:
    """Return some images of the most confused pairs of classes, and some that two models answer differently."""
    import numpy as np

    from resx.bench.report.evaluation_page import PageImages
    from resx.bench.report.image_tiles import Tile, make_tile

    open_image, labels = images.opener(None), images.labels
    first = found[0].answers

    def tile(number: int, words: str) -> Tile:
        with open_image(number) as image:
            return make_tile(image, name=images.names[number], words=words)

    def certainty(number: int) -> str:
        shares = first.probabilities
        return "" if shares is None else f"probability {shares[number].max():.3f}"

    def confused(label: str, answered: str) -> list[Tile]:
        pair = (images.targets == labels.index(label)) & (first.predicted == labels.index(answered))
        numbers = np.flatnonzero(pair)[:_OF_A_PAIR].tolist()
        return [tile(number, certainty(number)) for number in numbers]

    def flipped() -> list[Tile]:
        if len(found) < 2:
            return []
        before, after = (one.answers.predicted for one in found)
        return [
            tile(number, f"{labels[images.targets[number]]}: {labels[before[number]]}, then {labels[after[number]]}")
            for number in np.flatnonzero(before != after)[:_FLIPS].tolist()
        ]

    pairs = found[0].evaluation.most_confused[:_PAIRS]
    return PageImages(confused=[confused(pair.label, pair.answered) for pair in pairs], flipped=flipped())
