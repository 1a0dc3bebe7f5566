"""What a classifier gets right: accuracy, precision and recall by class, which classes it confuses, its calibration.

Precision, recall, F1 and the confusion matrix are scikit-learn's own; a share of images has Wilson's 95 % interval
(scipy's). The expected calibration error is that of Guo et al., "On Calibration of Modern Neural Networks" (2017),
section 2: images are put into bins of equal width by the probability of their most likely class, and the error is the
mean distance between a bin's accuracy and its mean probability, weighted by its images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from resx.analysis.classification.class_matching import MatchedBy
from resx.values import FrozenModel

CONFIDENCE = 0.95
NUM_BINS = 15
TOP = 5
_MOST_CONFUSED = 20


class Share(FrozenModel):
    """A share of images, with Wilson's 95 % interval."""

    right: int
    of: int
    share: float
    low: float
    high: float


class ClassFigures(FrozenModel):
    """Results for one class."""

    label: str
    support: int
    """Images of the class."""
    answered: int
    """Images that are answered with the class."""
    precision: Share | None
    """Share of correct answers among the images answered with this class; None without such images."""
    recall: Share | None
    """Share of correct answers among the images of this class; None without such images."""
    f1: float | None
    """Harmonic mean of precision and recall; None with neither images nor answers."""


class Averages(FrozenModel):
    """Averages over the classes that have images. A precision of None counts as 0, as in scikit-learn."""

    precision: float
    recall: float
    f1: float


class Confusion(FrozenModel):
    """Images of one class that are answered with another."""

    label: str
    answered: str
    num_images: int
    share: float
    """Share of the images of the true class."""


class CalibrationBin(FrozenModel):
    """Images whose most likely class has a probability above `low`, up to `high`; the first bin holds 0 too."""

    low: float
    high: float
    num_images: int
    confidence: float | None
    """Mean probability of the most likely class; None without images."""
    accuracy: float | None


class Calibration(FrozenModel):
    """How far probabilities are from the share of right answers."""

    error: float
    """The expected calibration error."""
    bins: tuple[CalibrationBin, ...]


class ImagesUsed(FrozenModel):
    """Which images a model was evaluated on."""

    data: str
    part: str
    origin: str
    """Description of the images."""
    num_images: int
    num_skipped: int
    """Images that cannot be read and were left out."""


class Evaluation(FrozenModel):
    """Results of a model on labeled images."""

    model: str
    kind: str
    """What was asked: run, variant, network, file, version or served."""
    random_weights: bool
    images: ImagesUsed
    classes_matched_by: MatchedBy
    output: str
    """What the model's numbers are: logits, probabilities or scores."""
    top1: Share
    top5: Share | None
    """None with five classes or fewer, where it is always 1."""
    macro: Averages
    """Every class counts the same."""
    weighted: Averages
    """Classes count by their images."""
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...] = Field(repr=False)
    """Images, by their class (row) and the answer (column)."""
    most_confused: tuple[Confusion, ...]
    """The pairs of classes with most images, at most 20."""
    calibration: Calibration | None
    """None where the outputs are no probabilities of classes that exclude each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A model's answers to images, its columns in the order of the data's classes."""

    values: npt.NDArray[np.float32]
    """[N, K], K at least 2."""
    probabilities: npt.NDArray[np.float64] | None
    """[N, K]; None where the values are no probabilities of classes that exclude each other, and no logits of them."""

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most likely class of each image [N]."""
        return self.values.argmax(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What was asked, as the evaluation names it."""

    model: str
    kind: str
    random_weights: bool
    output: str
    labels: Sequence[str]
    matched_by: MatchedBy
    images: ImagesUsed


def evaluate_answers(answers: Answers, targets: npt.NDArray[np.int64], asked: Asked) -> Evaluation:
    """Return the figures of answers to images of the classes `targets` [N]."""
    predicted, labels = answers.predicted, asked.labels
    right = predicted == targets
    shares = answers.probabilities
    matrix = confusion_matrix(targets, predicted, labels=np.arange(len(labels)))
    return Evaluation(
        model=asked.model,
        kind=asked.kind,
        random_weights=asked.random_weights,
        images=asked.images,
        classes_matched_by=asked.matched_by,
        output=asked.output,
        top1=share_of(int(right.sum()), len(targets)),
        top5=_top5(answers.values, targets),
        macro=_averages(targets, predicted, "macro"),
        weighted=_averages(targets, predicted, "weighted"),
        classes=_by_class(targets, predicted, matrix, labels),
        confusion=tuple(tuple(row) for row in matrix.tolist()),
        most_confused=_most_confused(matrix, labels),
        calibration=None if shares is None else calibrate(shares.max(1), right),
    )


def share_of(right: int, of: int) -> Share:
    """Return a share of one image or more with its interval."""
    low, high = stats.binomtest(right, of).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Share(right=right, of=of, share=right / of, low=float(low), high=float(high))


def calibrate(
    confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], *, num_bins: int = NUM_BINS
) -> Calibration:
    """Return the expected calibration error, and its bins.

    Args:
        confidence: of each image [N], the probability of its most likely class.
        right: whether that is the image's class [N].
        num_bins: of equal width.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    error, bins = 0.0, []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = place == number
        count = int(inside.sum())
        mean, accuracy = (float(values[inside].mean()) if count else None for values in (confidence, right))
        if mean is not None and accuracy is not None:
            error += count / len(right) * abs(accuracy - mean)
        bins.append(
            CalibrationBin(low=float(low), high=float(high), num_images=count, confidence=mean, accuracy=accuracy)
        )
    return Calibration(error=error, bins=tuple(bins))


def _top5(answers: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> Share | None:
    num_classes = answers.shape[1]
    if num_classes <= TOP:
        return None
    right = top_k_accuracy_score(targets, answers, k=TOP, labels=np.arange(num_classes), normalize=False)
    return share_of(int(right), len(targets))


def _averages(targets: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], kind: str) -> Averages:
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, predicted, labels=np.unique(targets), average=kind, zero_division=0
    )
    return Averages(precision=float(precision), recall=float(recall), f1=float(f1))


def _by_class(
    targets: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    matrix: npt.NDArray[np.int64],
    labels: Sequence[str],
) -> tuple[ClassFigures, ...]:
    f1 = precision_recall_fscore_support(targets, predicted, labels=np.arange(len(labels)), zero_division=0)[2]
    figures = zip(labels, matrix.diagonal().tolist(), matrix.sum(1).tolist(), matrix.sum(0).tolist(), f1, strict=True)
    return tuple(
        ClassFigures(
            label=label,
            support=support,
            answered=answered,
            precision=share_of(right, answered) if answered else None,
            recall=share_of(right, support) if support else None,
            f1=float(both) if answered or support else None,
        )
        for label, right, support, answered, both in figures
    )


def _most_confused(matrix: npt.NDArray[np.int64], labels: Sequence[str]) -> tuple[Confusion, ...]:
    """Return the cells beside the diagonal with most images; of equals, in the order of the classes."""
    wrong = matrix - np.diag(matrix.diagonal())
    places = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    found = []
    for row, column in zip(*np.unravel_index(places, wrong.shape), strict=True):
        if count := int(wrong[row, column]):
            share = count / int(matrix[row].sum())
            found.append(Confusion(label=labels[row], answered=labels[column], num_images=count, share=share))
    return tuple(found)
