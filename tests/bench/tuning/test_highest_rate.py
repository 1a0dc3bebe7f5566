"""When a trial holds its objective."""

from __future__ import annotations

import pytest

from resx.bench.tuning.highest_rate import parse_slo
from tests.support.report_page import measurement

SLO = parse_slo("p50=100ms")
GOOD = measurement(rate=50.0, p50_ms=100.0, requests_per_s=50.0, window_s=10.0, sent=500, failed=0, invalid=())


def test_a_trial_holds_its_objective_up_to_the_bound() -> None:
    assert SLO.holds(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"p50_ms": 100.1},
        {"p50_ms": None},
        {"failed": 1},
        {"invalid": ("the client was late",)},
        {"requests_per_s": 46.9},  # less than 95 % of 50, and the 5 that may be in flight
    ],
    ids=["too slow", "too few samples", "failed", "invalid", "not achieved"],
)
def test_a_trial_does_not_hold_its_objective(change: dict[str, object]) -> None:
    assert not SLO.holds(GOOD.model_copy(update=change))


def test_what_may_still_be_in_flight_is_no_shortfall() -> None:
    assert SLO.holds(GOOD.model_copy(update={"requests_per_s": 47.0}))
