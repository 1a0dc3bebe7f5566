"""Pairs alternate, and worse is fewer images a second or a longer latency."""

from __future__ import annotations

from typing import Any

import pytest

from resx.bench import comparing
from resx.bench.comparing import compare, regressions
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras
from resx.serving.client.address import parse_address
from tests.support.load_targets import a_target
from tests.support.report_page import measurement, result


def test_the_order_within_a_pair_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured first has another machine than what is measured second; both must be first as often."""
    asked: list[tuple[int, str]] = []

    def note(target: Target, _plan: LoadPlan, _extras: Extras, *, repeat: int) -> Any:
        asked.append((repeat, target.model))
        return measurement()

    monkeypatch.setattr(comparing, "measure", note)
    targets = [a_target(parse_address("127.0.0.1:8000", "http"), name) for name in ("a", "b")]

    compare(
        targets,
        LoadPlan(concurrency=1),
        Extras(),
        3,
        on_round=lambda _number, _target: None,
        on_measured=lambda _measured: None,
    )

    assert asked == [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")]


@pytest.mark.parametrize(
    ("change", "is_worse"),
    [
        ({"images_per_s": 90.0}, True),
        ({"images_per_s": 110.0}, False),
        ({"p50_ms": 11.0}, True),
        ({"p50_ms": 9.0}, False),
        ({"images_per_s": 97.0, "p50_ms": 10.3}, False),
    ],
)
def test_fewer_images_and_longer_latencies_are_regressions(change: dict[str, float], is_worse: bool) -> None:
    before = measurement(images_per_s=100.0, p50_ms=10.0, p99_ms=None)
    after = before.model_copy(update=change)

    assert bool(regressions(result(after), result(before), 0.05)) == is_worse
