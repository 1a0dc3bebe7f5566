"""Which rate is tried next, by the trials before."""

from __future__ import annotations

import math

import pytest

from resx.bench.tuning.rate_bracket import STEP, RateBracket, TrialVerdict

HELD, MISSED, LATE = TrialVerdict(held=True), TrialVerdict(), TrialVerdict(late=True)
HOPELESS = TrialVerdict(hopeless=True)


def after(*verdicts: TrialVerdict, high: float = 1000.0, down: float = 2.0) -> RateBracket:
    bracket = RateBracket(rate_per_s=100.0, high=high, down=down)
    for verdict in verdicts:
        bracket = bracket.after(verdict, 1.04)
    return bracket


@pytest.mark.parametrize(
    ("verdicts", "rate"),
    [
        ((), 100.0),
        ((HELD,), STEP * 100),  # not at once to the mean of 100 and 1000
        ((HELD, HELD), STEP * 150),
        ((HELD, MISSED), math.sqrt(100 * 150)),
        ((MISSED,), 50.0),
        ((MISSED, MISSED), 25.0),
        ((MISSED, HELD), math.sqrt(50 * 100)),
        ((LATE,), 25.0),  # the client's limit may be far below
        ((LATE, LATE), 6.25),
        ((LATE, HELD), 100.0),  # is it late again?
        ((LATE, HELD, LATE), STEP * 25),
        ((LATE, MISSED), 12.5),
    ],
)
def test_the_next_rate_follows_from_the_trials_before(verdicts: tuple[TrialVerdict, ...], rate: float) -> None:
    bracket = after(*verdicts)
    assert bracket.rate_per_s == pytest.approx(rate)
    assert not bracket.has_ended


def test_a_rate_that_was_late_is_asked_again_once_and_no_more() -> None:
    assert after(LATE, HELD).is_again
    again = after(LATE, HELD, LATE)
    assert (again.low, again.high) == (25.0, 100.0)
    assert again.doubtful == math.inf


@pytest.mark.parametrize(
    ("bracket", "low"),
    [
        (after(HELD, high=103.0), 100.0),  # close enough
        (after(HOPELESS), 0.0),
        (after(*[MISSED] * 12), 0.0),
        (after(*[LATE] * 12), 0.0),
    ],
)
def test_a_search_ends(bracket: RateBracket, low: float) -> None:
    assert bracket.has_ended
    assert bracket.low == low


@pytest.mark.parametrize(
    "verdicts", [(HELD,), (MISSED,) * 11, (LATE,) * 11, (TrialVerdict(hopeless=True, late=True),), (HELD, HOPELESS)]
)
def test_a_search_goes_on(verdicts: tuple[TrialVerdict, ...]) -> None:
    assert not after(*verdicts).has_ended
