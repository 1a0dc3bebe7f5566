"""What nothing beats in two costs."""

import itertools

import pytest

from resx.pareto import pareto_front


@pytest.mark.parametrize(
    ("found", "front"),
    [
        ([], []),
        ([(1, 1)], [(1, 1)]),
        ([(2, 1), (1, 2)], [(1, 2), (2, 1)]),
        ([(1, 1), (2, 2)], [(1, 1)]),
        ([(1, 2), (1, 1)], [(1, 1)]),
        ([(2, 1), (1, 1)], [(1, 1)]),
        ([(3, 0), (1, 5), (2, 5), (2, 3), (4, 0)], [(1, 5), (2, 3), (3, 0)]),
    ],
)
def test_what_is_left_is_beaten_by_nothing(found: list[tuple[int, int]], front: list[tuple[int, int]]) -> None:
    for order in itertools.permutations(found):
        assert pareto_front(order, lambda one: one) == front


def test_of_two_that_cost_the_same_the_first_stays() -> None:
    assert pareto_front([("a", 1, 1), ("b", 1, 1)], lambda one: one[1:]) == [("a", 1, 1)]
