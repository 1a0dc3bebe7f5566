"""Which findings forbid a measurement's figures, and which are only remarked on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resx.bench.load.load_plan import LoadPlan
from resx.bench.results.result import Answers, Client, Late, Stability
from resx.bench.results.verdict import Findings, is_too_late, reasons_against, remarks_on

GOOD = Findings(
    plan=LoadPlan(rate_per_s=100.0),
    sent=1000,
    answered=1000,
    window_s=10.0,
    requests_per_s=100.0,
    client=Client(processes=1, cpu_ms_per_request=0.1, cpu_share=0.1, ceiling_requests_per_s=10_000.0),
    late=Late(threshold_ms=1.0, num_late=10, share=0.01, max_ms=2.0),
    answers=Answers(checked=100, wrong=0, reference="the card", worst=0.0, tolerance=0.1),
    stability=Stability(rates_per_s=(100.0, 100.0, 100.0), spread=0.0, stable=True),
    server=None,
    cached_share=0.0,
    most_served=1000,
    interrupted="",
    server_is_local=False,
)


def test_nothing_speaks_against_a_good_measurement() -> None:
    assert reasons_against(GOOD) == ()
    assert remarks_on(GOOD) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answered": 0}, "no request was answered"),
        ({"answers": GOOD.answers.model_copy(update={"wrong": 1})}, "1 of 100 sampled answers are wrong"),
        ({"interrupted": "Ctrl-C"}, "the measurement ended early: Ctrl-C"),
        ({"cached_share": 0.02}, "the response cache answered 2.0%"),
        (
            {"late": Late(threshold_ms=1.0, num_late=11, share=0.011, max_ms=2.0)},
            "1.1% of the requests were sent",
        ),
    ],
    ids=["unanswered", "wrong", "interrupted", "cached", "late"],
)
def test_each_of_these_forbids_the_figures(change: dict[str, object], reason: str) -> None:
    (found,) = reasons_against(replace(GOOD, **change))  # type: ignore[arg-type]

    assert reason in found


def test_one_late_request_is_no_share() -> None:
    assert not is_too_late(Late(threshold_ms=1.0, num_late=1, share=0.11, max_ms=2.0))
    assert is_too_late(Late(threshold_ms=1.0, num_late=2, share=0.011, max_ms=2.0))


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"answered": 990}, "10 of 1000 requests failed"),
        ({"requests_per_s": 94.0}, "it answered 94.0 of 100.0 requests/s"),
        ({"stability": GOOD.stability.model_copy(update={"spread": 0.2, "stable": False})}, "unstable"),
        ({"client": GOOD.client.model_copy(update={"ceiling_requests_per_s": 999.0})}, "client-bound"),
        ({"server_is_local": True}, "client and server share this machine"),
    ],
    ids=["failed", "too few", "unstable", "client", "local"],
)
def test_each_of_these_is_remarked_on_and_forbids_nothing(change: dict[str, object], remark: str) -> None:
    found = replace(GOOD, **change)  # type: ignore[arg-type]

    assert any(remark in text for text in remarks_on(found))
    assert reasons_against(found) == ()
