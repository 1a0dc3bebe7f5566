"""When a trial holds its objective."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resx.bench.tuning.highest_rate import parse_slo
from tests.support.command import Finished
from tests.support.report_page import measurement
from tests.support.running_triton import RunningTriton

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


def test_a_search_ends_with_a_rate_that_holds_the_objective(
    triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    options = [f"--repository={triton.repository.root}", "--duration", "1", "--warmup", "0.2", "--json"]
    done = resx("bench", "tiny", "--slo", "p50=2s", *options)
    found = done.json["slo"]
    trials = [measured for measured in done.json["measurements"] if measured["load"] == "open"]
    if done.code:  # a machine so busy that nothing is sent or answered in time: the search says that, and nothing else
        assert (done.code, found["rate_per_s"]) == (3, None), done.err
        assert "--slo p50=2s: no rate meets it; " in done.err
    else:
        assert 0 < found["reached_ms"] <= 2000
        assert found["rate_per_s"] in [trial["rate_per_s"] for trial in trials]
        closed = [m["requests_per_s"] for m in done.json["measurements"] if m["load"] == "closed"]
        assert closed == [found["capacity_per_s"], found["capacity_after_per_s"]]
        assert found["wandered"] == pytest.approx(closed[1] / closed[0] - 1)
        assert found["share_of_capacity"] == pytest.approx(found["rate_per_s"] / (sum(closed) / 2))
        assert found["limited_by"] == ("server" if found["client_limit_per_s"] is None else "client")


def test_a_search_for_what_no_server_does_ends_with_the_figure_that_shows_it(
    triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    options = [f"--repository={triton.repository.root}", "--duration", "1", "--warmup", "0.2", "--json"]
    done = resx("bench", "tiny", "--slo", "p50=1us", *options)
    lowest = min((m for m in done.json["measurements"] if m["load"] == "open"), key=lambda m: m["rate_per_s"])
    why = (
        "the client could not send"
        if lowest["invalid"]
        else f"the lowest that was tried, p50 is {lowest['p50_ms']:.4g} ms"
    )
    assert (done.code, "--slo p50=1us: no rate meets it; " in done.err, why in done.err) == (3, True, True), done.err
