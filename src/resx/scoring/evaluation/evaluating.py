"""Ask a model about every image, and make an evaluation of its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.analysis.classification.class_matching import ClassMatch
from resx.analysis.classification.evaluation import Answers, Asked, Evaluation, evaluate_answers
from resx.card.output_kind import as_shown
from resx.errors import ResxError
from resx.machine import usable_cores
from resx.scoring.evaluation.images import EvaluationImages
from resx.scoring.evaluation.subject import Subject
from resx.scoring.stream import DECODERS_NICE, ahead, batch, open_pool
from resx.text import one_line

OnProgress = Callable[[int, int], None]
"""Takes how many images are answered, and of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """An evaluation, and the answers that it is of."""

    evaluation: Evaluation
    answers: Answers


def evaluate_subject(
    subject: Subject, images: EvaluationImages, match: ClassMatch, on_progress: OnProgress
) -> Evaluated:
    """Ask a model about every image.

    Args:
        subject: the model.
        images: with their classes.
        match: which output is which of the data's classes.
        on_progress: told how far it is.

    Raises:
        UsageError: an image cannot be read.
        ResxError: an answer is not finite; or what the model's runtime, or its server, raises.
    """
    values = ask(subject, images, on_progress)
    if values.shape[1] != subject.num_outputs:
        raise ResxError(
            f"{subject.title}: answered with {values.shape[1]} numbers per image, not {subject.num_outputs}"
        )
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise ResxError(
            f"{subject.title}: {len(bad)} of {len(values)} answers are not finite, the first to "
            f"{one_line(images.names[bad[0]])}; check its weights and its precision"
        )
    output, arranged = subject.output_kind(values), match.arrange(values)
    # In double precision: what is nearly certain must not become 1.
    shown = None if output == "scores" else as_shown(arranged.astype(np.float64), output)
    answers = Answers(values=arranged, probabilities=shown)
    asked = Asked(
        model=subject.title,
        kind=subject.kind,
        random_weights=subject.has_random_weights,
        output=output,
        labels=images.labels,
        matched_by=match.by,
        images=images.used,
    )
    return Evaluated(evaluation=evaluate_answers(answers, images.targets, asked), answers=answers)


def ask(subject: Subject, images: EvaluationImages, on_progress: OnProgress) -> npt.NDArray[np.float32]:
    """Return the model's outputs [N, K]; images are read and prepared while it computes.

    Raises:
        UsageError: an image cannot be read.
        ResxError: what the model's runtime, or its server, raises.
    """
    open_image, names = images.opener(subject.edge), images.names

    def prepare(number: int) -> npt.NDArray[Any]:
        with open_image(number) as image:
            return subject.prepare(image, names[number])

    def answer(rows: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        return subject.answer(np.concatenate(rows))

    found: list[npt.NDArray[np.float32]] = []
    done, size = 0, subject.batch_size
    on_progress(0, len(images))
    with open_pool(max(2, usable_cores()), nice=DECODERS_NICE) as decoding, open_pool(subject.in_flight) as computing:
        rows = ahead(decoding, prepare, range(len(images)), 2 * size + 16, lambda _number: subject.row_bytes)
        for answered in ahead(computing, answer, batch(rows, size), subject.in_flight + 1):
            found.append(answered)
            done += len(answered)
            on_progress(done, len(images))
    return np.concatenate(found)
