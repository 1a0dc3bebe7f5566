"""What a window's samples show, from samples that are laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from resx.bench.results.samples import MIN_SAMPLES, Samples
from resx.bench.results.window_figures import Window, late_in, seconds_of, stability_of

S = 1_000_000_000


def samples(due_s: list[float], *, late_s: float = 0.0, took_s: float = 0.01) -> Samples:
    due = np.array(due_s) * S
    sent = due + late_s * S
    return Samples(
        due_ns=due.astype(np.int64),
        sent_ns=sent.astype(np.int64),
        done_ns=(sent + took_s * S).astype(np.int64),
        kind=np.zeros(len(due), np.int64),
        errors=(),
    )


@pytest.mark.parametrize(("late_s", "share"), [(0.0, 0.0), (0.0005, 0.0), (1.0, 1.0)])
def test_requests_that_left_late_are_counted(late_s: float, share: float) -> None:
    late = late_in(samples([1.0, 2.0, 3.0, 4.0], late_s=late_s), p50_ms=10.0)
    assert late.share == share
    assert late.max_ms == pytest.approx(1000 * late_s)


def test_answers_that_come_evenly_are_stable_and_those_of_one_third_are_not() -> None:
    window = Window(0, 30 * S)
    even = samples([number * 0.03 for number in range(999)])
    first_third = samples([number * 0.01 for number in range(999)])
    assert stability_of(even, window).stable
    assert not stability_of(first_third, window).stable


def test_a_seconds_99th_percentile_is_its_slowest_answer_where_there_are_too_few() -> None:
    few, enough = MIN_SAMPLES[99] - 1, MIN_SAMPLES[99]
    for number, is_told in ((few, False), (enough, True)):
        due = [0.5 * place / number for place in range(number)]
        found = samples(due)
        found.done_ns[-1] += S // 10  # one slow answer, which is no 99th percentile of so many
        (second, *_) = seconds_of(found, Window(0, 10 * S), is_open=True)
        assert second.p99_ms is not None
        assert (second.p99_ms < 50) is is_told


def test_the_seconds_hold_every_sample_once() -> None:
    found = samples([number * 0.1 for number in range(100)])
    slices = seconds_of(found, Window(0, 10 * S), is_open=True)
    assert len(slices) == 10
    assert sum(one.answers_per_s for one in slices) == pytest.approx(100)
