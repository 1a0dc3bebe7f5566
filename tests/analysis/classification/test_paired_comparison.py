"""Two models on the same images: McNemar's exact test, the interval of the difference, and the flips."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resx.analysis.classification.paired_comparison import PairedComparison, compare_answers


def compare(first: list[int], second: list[int], targets: list[int]) -> PairedComparison:
    predicted = (np.array(first), np.array(second))
    names = [f"{number}.png" for number in range(len(targets))]
    return compare_answers("a", "b", predicted, np.array(targets), labels=["x", "y", "z"], names=names)


@pytest.mark.parametrize(("lost", "won"), [(1, 0), (3, 9), (0, 8), (5, 5), (40, 12)])
def test_p_is_that_of_mcnemars_exact_test(lost: int, won: int) -> None:
    both = 10
    found = compare([0] * (both + lost) + [1] * won, [0] * both + [1] * lost + [0] * won, [0] * (both + lost + won))

    number = lost + won
    tail = sum(math.comb(number, k) for k in range(max(lost, won), number + 1)) / 2**number
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (found.both_right, found.only_first_right, found.only_second_right, found.both_wrong) == (both, lost, won, 0)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.difference <= found.high
    assert found.difference == pytest.approx((won - lost) / (both + number))


def test_models_that_agree_have_no_difference() -> None:
    found = compare([0, 1, 2], [0, 1, 2], [0, 1, 0])

    assert (found.p_value, found.difference, found.low, found.high) == (1.0, 0.0, None, None)
    assert (found.num_flips, found.flips, found.both_wrong) == (0, (), 1)


def test_flips_are_all_images_with_another_answer_right_or_wrong() -> None:
    found = compare([0, 1, 2, 1], [0, 2, 1, 0], [0, 0, 1, 1])

    assert found.num_flips == 3
    assert [(flip.image, flip.label, flip.first, flip.second) for flip in found.flips] == [
        ("1.png", "x", "y", "z"),
        ("2.png", "y", "z", "y"),
        ("3.png", "y", "y", "x"),
    ]
    assert (found.only_first_right, found.only_second_right, found.both_wrong) == (1, 1, 1)
