import itertools
import math
from typing import Any, cast

import pytest

from resx.bench.comparing import interval, share_of
from resx.bench.load.load_plan import LoadPlan, concurrencies, rates
from resx.bench.load.load_task import LoadTask, due_times
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras
from resx.bench.results.result import Late
from resx.bench.results.server_statistics import breakdown
from resx.bench.tuning import highest_rate
from resx.bench.tuning.highest_rate import CLOSENESS, parse_slo, search
from resx.errors import UsageError
from tests.support.report_page import measurement


@pytest.mark.parametrize(
    "fields",
    [
        {"concurrency": 0},
        {"concurrency": 1, "batch_size": 0},
        {"concurrency": 1, "duration_s": 0.0},
        {"concurrency": 1, "duration_s": math.nan},
        {"concurrency": 1, "warmup_s": -1.0},
        {"concurrency": 1, "rate_per_s": 5.0},
        {"rate_per_s": -1.0},
        {"rate_per_s": 1e9},
        {"rate_per_s": math.nan},
        {"concurrency": 2, "processes": 3},
        {"concurrency": 1, "timeout_s": 0.0},
        {"concurrency": 1, "duration_s": math.inf},
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give"):
        LoadPlan(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("4", [4]), ("1,4,8", [1, 4, 8]), ("1:16", [1, 2, 4, 8, 16]), ("3:10", [3, 6, 10]), ("2:10:4", [2, 6, 10])],
)
def test_concurrencies_are_numbers_lists_and_ranges(text: str, counts: list[int]) -> None:
    assert concurrencies(text) == counts


@pytest.mark.parametrize("text", ["", "a", "4:1", "0:4", "1:4:0", "1,,2", "-1", "1:2:3:4"])
def test_a_wrong_concurrency_says_what_is_right(text: str) -> None:
    with pytest.raises(UsageError, match="--concurrency .*give"):
        concurrencies(text)


@pytest.mark.parametrize("text", ["", "a", "0", "-5", "nan", "inf", "5,", "1e9"])
def test_a_wrong_rate_says_what_is_right(text: str) -> None:
    with pytest.raises(UsageError, match="--rate .*give"):
        rates(text)


@pytest.mark.parametrize(
    ("text", "percent", "bound"), [("p99=15ms", 99, 15), ("p50 = 0.5s", 50, 500), ("p99.9=800us", 99.9, 0.8)]
)
def test_an_objective_is_a_percentile_and_a_time(text: str, percent: float, bound: float) -> None:
    found = parse_slo(text)
    assert (found.percent, found.bound_ms) == (percent, pytest.approx(bound))


@pytest.mark.parametrize("text", ["p99", "p98=5ms", "99=5ms", "p99=0ms", "p99=5", "p99=-5ms"])
def test_a_wrong_objective_says_what_is_right(text: str) -> None:
    with pytest.raises(UsageError, match="--slo .*p99=15ms"):
        parse_slo(text)


def test_a_share_is_a_percentage_or_a_number() -> None:
    assert share_of("5%") == share_of("0.05") == 0.05
    for text in ("", "5", "0%", "100%", "x"):
        with pytest.raises(UsageError, match="--fail-above"):
            share_of(text)


def test_poisson_arrivals_come_at_their_rate_and_at_random() -> None:
    task = LoadTask(protocol="http", host_port="x:1", requests=(), rate_per_s=200.0, seed=(3, 0))
    times = due_times(task, 0)
    gaps = [next(times) for _ in range(20_000)]
    intervals = [after - before for before, after in itertools.pairwise(gaps)]
    mean = sum(intervals) / len(intervals)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in intervals) / len(intervals))
    assert mean == pytest.approx(5e6, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.05)  # an exponential distribution's


def test_constant_arrivals_are_even() -> None:
    task = LoadTask(protocol="http", host_port="x:1", requests=(), rate_per_s=1000.0, poisson=False)
    times = due_times(task, 0)
    assert [next(times) for _ in range(4)] == [0, 1_000_000, 2_000_000, 3_000_000]


def test_an_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_the_servers_breakdown_is_a_difference() -> None:
    def reading(requests: int, executions: int) -> list[dict[str, object]]:
        phase = {"count": str(requests), "ns": str(requests * 2_000_000)}
        phases = ("queue", "compute_input", "compute_infer", "compute_output")
        inference = {"success": {"count": str(requests)}} | dict.fromkeys(phases, phase)
        batches = [{"batch_size": "3", "compute_infer": {"count": str(executions), "ns": "1"}}]
        return [
            {
                "inference_stats": inference,
                "execution_count": str(executions),
                "inference_count": str(requests * 3),
                "batch_stats": batches,
            }
        ]

    seen = breakdown(reading(10, 5), reading(110, 30))
    assert seen is not None
    assert (seen.requests, seen.executions, seen.mean_batch_size) == (100, 25, 12.0)
    assert seen.queue_ms == pytest.approx(2.0)
    assert seen.batches == {3: 25}
    assert breakdown(reading(10, 5), reading(10, 5)) is None


def test_the_front_of_a_family_is_shown_where_cards_name_accuracies() -> None:
    from resx.bench.results.result import BenchResult
    from resx.cli.views.bench_result import front_rows

    def measured(model: str, p50_ms: float) -> dict[str, object]:
        return {"target": model, "p50_ms": p50_ms, "images_per_s": 1000 / p50_ms}

    class Measured:
        def __init__(self, fields: dict[str, object]) -> None:
            self.__dict__.update(fields)

    facts = {
        "m-d9": {"accuracy": 0.99, "kept_blocks": 9, "blocks": 9},
        "m-d5": {"accuracy": 0.97, "kept_blocks": 5, "blocks": 9},
        "m-d3": {"accuracy": 0.90, "kept_blocks": 3, "blocks": 9},
    }
    measurements = tuple(Measured(measured(*pair)) for pair in (("m-d3", 4.0), ("m-d9", 5.0), ("m-d5", 3.0)))
    result = BenchResult.model_construct(models=facts, measurements=measurements)
    assert front_rows(result) == [
        ["m-d9", "9 of 9", "99.00", "5.00", "200.0", "*"],
        ["m-d5", "5 of 9", "97.00", "3.00", "333.3", "*"],
        ["m-d3", "3 of 9", "90.00", "4.00", "250.0", ""],
    ]
    del facts["m-d9"], facts["m-d3"]
    assert front_rows(result) == []


@pytest.mark.parametrize("holds_up_to_per_s", [30.0, 470.0, 640.0])
def test_a_search_closes_in_on_the_highest_rate_that_holds(
    monkeypatch: pytest.MonkeyPatch, holds_up_to_per_s: float
) -> None:
    """Of a server whose latency passes the bound at a known rate."""

    def fake(_target: Any, plan: LoadPlan, _extras: Any, *, repeat: int = 1) -> Any:
        p50_ms = 10.0 if plan.rate_per_s <= holds_up_to_per_s else 500.0
        per_s = plan.rate_per_s or 600.0
        changes = {"p50_ms": p50_ms, "requests_per_s": per_s, "window_s": 1.0, "sent": round(per_s)}
        return measurement(rate=plan.rate_per_s, repeat=repeat, **changes)

    monkeypatch.setattr(highest_rate, "measure", fake)
    plan = LoadPlan(concurrency=1, duration_s=1.0)
    found = search(cast(Target, None), parse_slo("p50=100ms"), plan, Extras(measure_ceiling=False))
    assert found.capacity_per_s == 600.0
    assert found.rate_per_s is not None
    assert holds_up_to_per_s / CLOSENESS**2 <= found.rate_per_s <= holds_up_to_per_s
    assert found.trials[-1].rate_per_s == found.rate_per_s, "the rate that is told has held once more"
    assert len(found.trials) <= 12
    begun = search(cast(Target, None), parse_slo("p50=100ms"), plan, Extras(measure_ceiling=False), start_per_s=200.0)
    assert begun.trials[0].rate_per_s == 200.0
    assert begun.rate_per_s is not None
    assert holds_up_to_per_s / CLOSENESS**2 <= begun.rate_per_s <= holds_up_to_per_s


class Asked:
    """Stands for the measurement of a server that holds the bound at any rate up to one, and of a client likewise."""

    def __init__(
        self, *, server_per_s: float, client_per_s: float, late_once: bool = False, p50_ms: float = 1.0
    ) -> None:
        self.server_per_s, self.client_per_s, self.late_once, self.p50_ms = (
            server_per_s,
            client_per_s,
            late_once,
            p50_ms,
        )
        self.rates: list[float] = []

    def __call__(self, _target: Any, plan: LoadPlan, _extras: Any, *, repeat: int = 1) -> Any:
        if not plan.rate_per_s:
            return measurement(rate=0.0, p50_ms=self.p50_ms, requests_per_s=800.0, window_s=1.0, sent=800)
        self.rates.append(plan.rate_per_s)
        p50_ms = self.p50_ms if plan.rate_per_s <= self.server_per_s else 500.0
        made = measurement(
            rate=plan.rate_per_s,
            repeat=repeat,
            p50_ms=p50_ms,
            requests_per_s=plan.rate_per_s,
            window_s=100.0,
            sent=int(100 * plan.rate_per_s),
        )
        if plan.rate_per_s <= self.client_per_s and not (self.late_once and len(self.rates) == 1):
            return made
        late = Late(threshold_ms=1.0, num_late=40, share=0.4, max_ms=9.0)
        return made.model_copy(update={"late": late, "invalid": ("late",)})

    def search(self, monkeypatch: pytest.MonkeyPatch, start_per_s: float | None = None) -> highest_rate.Found:
        monkeypatch.setattr(highest_rate, "measure", self)
        plan, extras = LoadPlan(concurrency=1, duration_s=1.0), Extras(measure_ceiling=False)
        return search(cast(Target, None), parse_slo("p50=100ms"), plan, extras, start_per_s=start_per_s)


def test_a_rate_that_left_late_once_is_asked_again_when_a_lower_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(server_per_s=130.0, client_per_s=math.inf, late_once=True)
    found = asked.search(monkeypatch, start_per_s=100.0)
    assert asked.rates[:4] == [100.0, 25.0, 100.0, 150.0]
    assert found.rate_per_s is not None
    assert 130.0 / CLOSENESS**2 <= found.rate_per_s <= 130.0
    assert found.limited_by == "server"


@pytest.mark.parametrize("client_per_s", [300.0, 40.0, 2.0])
def test_a_client_that_can_send_less_than_the_server_takes_is_told_as_the_limit(
    monkeypatch: pytest.MonkeyPatch, client_per_s: float
) -> None:
    found = Asked(server_per_s=600.0, client_per_s=client_per_s).search(monkeypatch)
    assert found.rate_per_s is not None
    assert client_per_s / CLOSENESS**2 <= found.rate_per_s <= client_per_s
    assert found.limited_by == "client"
    assert found.client_limit_per_s == pytest.approx(client_per_s, rel=CLOSENESS**2 - 1)


def test_a_client_that_never_gets_the_processor_is_told_and_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(server_per_s=600.0, client_per_s=0.0)
    found = asked.search(monkeypatch)
    assert found.rate_per_s is None
    assert len(asked.rates) == len(set(asked.rates)) <= 6, "each lower than the one before, and none twice"
    assert "the client could not send even" in found.why
    assert "the server could not be judged" in found.why


@pytest.mark.parametrize("start_per_s", [None, 200.0])
def test_a_server_is_blamed_only_with_the_figure_of_a_valid_trial_at_the_lowest_rate(
    monkeypatch: pytest.MonkeyPatch, start_per_s: float | None
) -> None:
    asked = Asked(server_per_s=math.inf, client_per_s=math.inf, p50_ms=250.0)
    found = asked.search(monkeypatch, start_per_s=start_per_s)
    assert (found.rate_per_s, found.limited_by) == (None, "server")
    assert found.why == f"at {min(asked.rates):.4g}/s, the lowest that was tried, p50 is 250 ms"


def test_a_server_that_answers_in_time_but_too_few_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(_target: Any, plan: LoadPlan, _extras: Any, *, repeat: int = 1) -> Any:
        asked = {"rate": plan.rate_per_s, "sent": round(10 * plan.rate_per_s), "window_s": 10.0, "repeat": repeat}
        return measurement(**asked, p50_ms=1.0, requests_per_s=plan.rate_per_s / 2)

    monkeypatch.setattr(highest_rate, "measure", fake)
    plan, extras = LoadPlan(concurrency=1, duration_s=1.0), Extras(measure_ceiling=False)
    found = search(cast(Target, None), parse_slo("p50=100ms"), plan, extras, start_per_s=100.0)
    assert found.rate_per_s is None
    assert "/s were answered" in found.why
    assert "p50" not in found.why
