"""An evaluation's figures are scikit-learn's to the last bit; intervals and bins are what their formulas say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics

from resx.analysis.classification.evaluation import (
    Answers,
    Asked,
    Evaluation,
    ImagesUsed,
    calibrate,
    evaluate_answers,
    share_of,
)


def evaluation(values: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> Evaluation:
    used = ImagesUsed(data="d", part="all", origin="images of d", num_images=len(targets), num_skipped=0)
    shares = np.exp(values.astype(np.float64))
    asked = Asked(
        model="m",
        kind="run",
        random_weights=False,
        output="logits",
        labels=[f"c{number}" for number in range(values.shape[1])],
        matched_by="name",
        images=used,
    )
    answers = Answers(values=values, probabilities=shares / shares.sum(1, keepdims=True))
    return evaluate_answers(answers, targets, asked)


def drawn(num_images: int, num_classes: int, *, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Answers that are right more often than not."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, num_classes, num_images)
    values = random.standard_normal((num_images, num_classes)).astype(np.float32)
    values[np.arange(num_images), targets] += 1.5
    return values, targets


@pytest.mark.parametrize(("num_images", "num_classes"), [(500, 10), (40, 2), (60, 30), (1, 7)])
def test_figures_are_those_of_scikit_learn(num_images: int, num_classes: int) -> None:
    values, targets = drawn(num_images, num_classes, seed=num_classes)
    predicted, labels = values.argmax(1), np.arange(num_classes)

    found = evaluation(values, targets)

    assert found.top1.share == metrics.accuracy_score(targets, predicted)
    assert np.array_equal(found.confusion, metrics.confusion_matrix(targets, predicted, labels=labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, predicted, labels=labels, zero_division=0
    )
    assert [one.support for one in found.classes] == support.tolist()
    assert [one.precision.share if one.precision else 0.0 for one in found.classes] == precision.tolist()
    assert [one.recall.share if one.recall else 0.0 for one in found.classes] == recall.tolist()
    assert [one.f1 or 0.0 for one in found.classes] == f1.tolist()
    with_images = sorted(set(targets.tolist()))
    for name, average in (("macro", found.macro), ("weighted", found.weighted)):
        expected = metrics.precision_recall_fscore_support(
            targets, predicted, labels=with_images, average=name, zero_division=0
        )
        assert (average.precision, average.recall, average.f1) == tuple(map(float, expected[:3]))
    if found.top5 is not None:
        assert found.top5.share == metrics.top_k_accuracy_score(targets, values, k=5, labels=labels)


@pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (4, False), (5, False), (6, True)])
def test_top_5_is_left_out_where_it_says_nothing(num_classes: int, has_top5: bool) -> None:
    assert (evaluation(*drawn(30, num_classes, seed=0)).top5 is not None) == has_top5


def test_a_class_without_images_or_answers_has_no_recall_or_precision() -> None:
    values = np.array([[3, 0, 0, 0], [3, 0, 0, 0], [0, 3, 0, 0]], np.float32)

    found = evaluation(values, np.array([0, 2, 0]))

    first, second, third, fourth = found.classes
    assert first.precision is not None
    assert (first.precision.right, first.precision.of) == (1, 2)
    assert (second.support, second.answered, second.recall, second.f1) == (0, 1, None, 0.0)
    assert (third.support, third.answered, third.precision, third.f1) == (1, 0, None, 0.0)
    assert (fourth.precision, fourth.recall, fourth.f1) == (None, None, None)
    assert found.macro.recall == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize(("right", "of"), [(0, 10), (10, 10), (1, 1), (338, 355), (999, 1000)])
def test_intervals_are_wilsons(right: int, of: int) -> None:
    z, share = 1.959963984540054, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))

    found = share_of(right, of)

    assert (found.low, found.high) == pytest.approx((max(0.0, middle - half), min(1.0, middle + half)), abs=1e-12)
    assert 0 <= found.low <= share <= found.high <= 1


def test_the_calibration_error_is_the_mean_distance_of_the_bins_by_their_images() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.62, 0.62])
    right = np.array([True, True, True, False, True, False])

    found = calibrate(confidence, right, num_bins=10)

    assert found.error == pytest.approx(4 / 6 * 0.20 + 2 / 6 * 0.12)
    assert [one.num_images for one in found.bins] == [0, 0, 0, 0, 0, 0, 2, 0, 0, 4]
    assert found.bins[0].accuracy is None
    assert sum(one.num_images for one in found.bins) == len(right)


@pytest.mark.parametrize(("confidence", "place"), [(0.5, 4), (0.5000001, 5), (1.0, 9), (0.0, 0), (0.1, 0)])
def test_a_bin_holds_its_upper_end(confidence: float, place: int) -> None:
    found = calibrate(np.array([confidence]), np.array([True]), num_bins=10)

    assert [one.num_images for one in found.bins].index(1) == place


def test_there_are_15_bins_and_sure_and_right_answers_have_no_error() -> None:
    values = np.full((8, 3), -200, np.float32)
    values[:, 1] = 200

    found = evaluation(values, np.ones(8, np.int64)).calibration

    assert found is not None
    assert (len(found.bins), found.error) == (15, 0.0)


def test_the_most_confused_classes_come_first() -> None:
    targets = np.array([0, 0, 0, 1, 1, 2])
    values = np.eye(3, dtype=np.float32)[[1, 1, 2, 1, 0, 2]]

    pairs = evaluation(values, targets).most_confused

    assert [(one.label, one.answered, one.num_images) for one in pairs] == [
        ("c0", "c1", 2),
        ("c0", "c2", 1),
        ("c1", "c0", 1),
    ]
    assert pairs[0].share == pytest.approx(2 / 3)
