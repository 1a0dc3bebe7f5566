"""Evaluate one model or two on the same images: load them, match the classes, ask, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resx.analysis.classification.class_matching import ClassMatch, match_classes
from resx.analysis.classification.evaluation import Evaluation
from resx.analysis.classification.paired_comparison import PairedComparison, compare_answers
from resx.errors import UsageError
from resx.files.fingerprint import compare
from resx.scoring.evaluation.evaluating import Evaluated, evaluate_subject
from resx.scoring.evaluation.images import EvaluationImages, Part, load_images
from resx.scoring.evaluation.opening import Opened
from resx.training.runs.run_origin import read_config


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesAsked:
    """Which images, and how their classes are matched with the model's."""

    data: str = ""
    """As `load_images` takes it; empty: the data of the run that a model comes from."""
    part: Part = "held-out"
    skip_bad: bool = False
    classes_by_position: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedTogether:
    """One model or two on the same images."""

    images: EvaluationImages
    found: tuple[Evaluated, ...]
    paired: PairedComparison | None
    """None for one model."""

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The figures alone."""
        return tuple(one.evaluation for one in self.found)


def evaluate_models(
    models: Sequence[Opened],
    asked: ImagesAsked,
    *,
    on_step: Callable[[str], None] = lambda _step: None,
    on_remark: Callable[[str], None] = lambda _remark: None,
) -> EvaluatedTogether:
    """Evaluate one model or two on the same images.

    Raises:
        UsageError: the data or an image cannot be used, or they and a model do not belong together.
        ResxError: a model fails.
    """
    on_step("load the images")
    images = load_asked(models, asked, on_remark)
    matches = [match_model(model, images, asked) for model in models]  # before the first is asked
    found = tuple(evaluate_model(model, images, match, on_step) for model, match in zip(models, matches, strict=True))
    paired = compare_found(found, images) if len(found) == 2 else None
    return EvaluatedTogether(images=images, found=found, paired=paired)


def load_asked(models: Sequence[Opened], asked: ImagesAsked, on_remark: Callable[[str], None]) -> EvaluationImages:
    """Load the images that were named, or those of the run that a model comes from.

    Raises:
        UsageError: none are named and no model records any, or they cannot be used.
    """
    text, skip, subject = asked.data, asked.skip_bad, models[0].subject
    run = next((model.run for model in models if model.run is not None), None)
    if not text:
        if run is None:
            raise UsageError(
                f"--data is missing: {subject.title} records none; give digits, mnist5k, cifar10:DIR, cifar100:DIR or "
                "folder:DIR"
            )
        config = read_config(run)
        text, skip = config.data, skip or config.skip_bad
    try:
        images = load_images(text, asked.part, edge=subject.edge, bad_images="skip" if skip else "refuse")
    except UsageError as error:
        if asked.data:
            raise
        raise UsageError(f"{run}: its data cannot be loaded ({error}); set --data") from error
    warnings = [warning for model in models for warning in _warn(model, text, images)]
    for remark in (*images.remarks, *warnings):
        on_remark(remark)
    return images


def _warn(model: Opened, text: str, images: EvaluationImages) -> list[str]:
    """Say if a run was trained on some of the images, or may have been as its data are not what they were."""
    if model.run is None:
        return []
    from resx.training.runs.checkpoint import DATA

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


def match_model(model: Opened, images: EvaluationImages, asked: ImagesAsked) -> ClassMatch:
    """Match a model's classes with those of the images.

    Raises:
        UsageError: they do not fit.
    """
    subject = model.subject
    return match_classes(
        subject.title,
        subject.labels,
        subject.num_outputs,
        images.text,
        images.labels,
        by_position=asked.classes_by_position,
    )


def evaluate_model(
    model: Opened, images: EvaluationImages, match: ClassMatch, step: Callable[[str], None]
) -> Evaluated:
    """Ask a model about every image.

    Raises:
        ResxError: it fails.
    """
    name = f"evaluate {model.subject.title}"
    step(name)
    return evaluate_subject(
        model.subject, images, match, lambda done, total: step(f"{name}: {done:,} of {total:,} images")
    )


def compare_found(found: Sequence[Evaluated], images: EvaluationImages) -> PairedComparison:
    """Compare two models that answered the same images, image by image."""
    first, second = found
    return compare_answers(
        first.evaluation.model,
        second.evaluation.model,
        (first.answers.predicted, second.answers.predicted),
        images.targets,
        labels=images.labels,
        names=images.names,
    )
