"""What a search says of the machine that it ran on."""

import pytest

from resx.bench.tuning.highest_rate import Found


@pytest.mark.parametrize(
    ("before", "after", "mean", "wandered"),
    [(100.0, 80.0, 90.0, -0.2), (100.0, 110.0, 105.0, 0.1), (100.0, 0.0, 100.0, None), (0.0, 0.0, 0.0, None)],
)
def test_the_closed_loop_before_and_after_tells_how_far_the_machine_wandered(
    before: float, after: float, mean: float, wandered: float | None
) -> None:
    found = Found(rate_per_s=70.0, trials=(), capacity_per_s=before, capacity_after_per_s=after)
    assert found.closed_loop_per_s == mean
    assert found.wandered == (None if wandered is None else pytest.approx(wandered))
