from __future__ import annotations

import pytest

from resx.data.dataset import pick_evenly


@pytest.mark.parametrize(
    ("total", "most", "picked"), [(10, 3, [0, 4, 9]), (3, 10, [0, 1, 2]), (7, 1, [0]), (5, 5, [0, 1, 2, 3, 4])]
)
def test_picks_are_evenly_spaced_from_first_to_last(total: int, most: int, picked: list[int]) -> None:
    assert pick_evenly(total, most).tolist() == picked
