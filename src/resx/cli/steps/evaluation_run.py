"""One run of `resx evaluate`: open the models, load the images, ask, compare, write the page."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.evaluation import ImagesWanted
from resx.cli.output import Output
from resx.cli.steps.evaluated_models import Asking, Opened, open_model
from resx.cli.views.evaluation import FoundEvaluations
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.analysis.classification.class_matching import ClassMatch
    from resx.analysis.classification.paired_comparison import PairedComparison
    from resx.bench.report.evaluation_page import PageImages
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
    with out.steps() as step, contextlib.ExitStack() as opened:
        step("load the model" if len(things) == 1 else "load the models")
        models = [open_model(text, asking, opened, is_alone=len(things) == 1) for text in things]
        if asking.server.url and not any(model.subject.kind == "served" for model in models):
            raise UsageError(f"--url {asking.server.url}: {things[0]} is computed here; remove the option")
        step("load the images")
        images = load_wanted(models, wanted, out)
        matches = [match_model(model, images, wanted) for model in models]  # before the first is asked
        found = [evaluate_model(model, images, match, step) for model, match in zip(models, matches, strict=True)]
        paired = compare_found(found, images) if len(found) == 2 else None
        evaluations = tuple(one.evaluation for one in found)
        if page is not None:
            step(f"write {page}")
            # Headers may be secrets, and a page is passed on.
            command = "" if asking.server.access.header else shlex.join(["resx", *sys.argv[1:]])
            _write(page, found, paired, images, command)
    return FoundEvaluations(evaluations=evaluations, paired=paired)


def load_wanted(models: Sequence[Opened], wanted: ImagesWanted, out: Output) -> EvaluationImages:
    """Load the images that were named, or those of the run that a model comes from.

    Raises:
        UsageError: none are named and no model records any, or they cannot be used.
    """
    from resx.scoring.evaluation.images import load_images

    text, skip, subject = wanted.data, wanted.skip_bad, models[0].subject
    run = next((model.run for model in models if model.run is not None), None)
    if not text:
        if run is None:
            raise UsageError(
                f"--data is missing: {subject.title} records none; give digits, mnist5k, cifar10:DIR, cifar100:DIR or "
                "folder:DIR"
            )
        from resx.training.run_origin import read_config

        config = read_config(run)
        text, skip = config.data, skip or config.skip_bad
    try:
        images = load_images(text, wanted.chosen_part(), edge=subject.edge, bad_images="skip" if skip else "refuse")
    except UsageError as error:
        if wanted.data:
            raise
        raise UsageError(f"{run}: its data cannot be loaded ({error}); set --data") from error
    warnings = [warning for model in models for warning in _warn(model, text, images)]
    for remark in (*images.remarks, *warnings):
        out.note(remark)
    return images


def _warn(model: Opened, text: str, images: EvaluationImages) -> list[str]:
    """Say if a run was trained on some of the images, or may have been as its data are not what they were."""
    if model.run is None:
        return []
    from resx.files.fingerprint import compare
    from resx.training.checkpoint import DATA
    from resx.training.run_origin import read_config

    if read_config(model.run).data != text:
        return []
    if images.part != "held-out":
        return [f"warning: {model.run} was trained on these images: the figures say nothing of new ones"]
    stored = model.run / DATA
    if images.fingerprint is None or not stored.is_file():
        return []
    changed = compare(stored, images.fingerprint, ignore_times=True)
    if not changed:
        return []
    return [f"warning: {text} changed since {model.run} was trained ({changed.words}): it may have seen these images"]


def match_model(model: Opened, images: EvaluationImages, wanted: ImagesWanted) -> ClassMatch:
    """Match a model's classes with those of the images.

    Raises:
        UsageError: they do not fit.
    """
    from resx.analysis.classification.class_matching import match_classes

    subject = model.subject
    return match_classes(
        subject.title,
        subject.labels,
        subject.num_outputs,
        images.text,
        images.labels,
        by_position=wanted.classes_by_position,
    )


def evaluate_model(
    model: Opened, images: EvaluationImages, match: ClassMatch, step: Callable[[str], None]
) -> Evaluated:
    """Ask a model about every image.

    Raises:
        ResxError: as `evaluate_subject`.
    """
    from resx.scoring.evaluation.evaluating import evaluate_subject

    name = f"evaluate {model.subject.title}"
    step(name)
    return evaluate_subject(
        model.subject, images, match, lambda done, total: step(f"{name}: {done:,} of {total:,} images")
    )


def compare_found(found: Sequence[Evaluated], images: EvaluationImages) -> PairedComparison:
    """Compare two models that answered the same images, image by image."""
    from resx.analysis.classification.paired_comparison import compare_answers

    first, second = found
    return compare_answers(
        first.evaluation.model,
        second.evaluation.model,
        (first.answers.predicted, second.answers.predicted),
        images.targets,
        labels=images.labels,
        names=images.names,
    )


def _write(
    page: Path, found: Sequence[Evaluated], paired: PairedComparison | None, images: EvaluationImages, command: str
) -> None:
    from resx.bench.report.evaluation_page import html
    from resx.files.staging import write_atomic

    first, *others = (one.evaluation for one in found)
    content = html(
        first,
        _page_images(found, images),
        against=others[0] if others else None,
        paired=paired,
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
