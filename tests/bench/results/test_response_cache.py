"""Figures that the response cache made are not the model's, in whichever way they were measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from resx.bench import measuring
from resx.bench.capacity.service_times import service_times
from resx.bench.capacity.simulation import Batching
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import Payloads
from resx.bench.measuring import Extras, target_of
from resx.bench.results.response_cache import MOST_CACHED, cached_share, models_with_cache, why_unusable
from resx.bench.results.result import BenchResult
from resx.errors import UsageError
from resx.serving.deployment.deploy import deploy
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

QUICK = Extras(measure_ceiling=False)
SHORT = LoadPlan(concurrency=2, duration_s=0.5, warmup_s=0.2)
REASON = "the response cache answered"


@pytest.fixture(scope="module")
def cached(triton: RunningTriton) -> str:
    """A model with a response cache, and an ensemble over it that has none of its own."""
    publish_tiny(triton.repository, "with_cache", image_endpoint=True)
    config = triton.repository.root / "with_cache" / "config.pbtxt"
    config.write_text(config.read_text() + "response_cache { enable: true }\n")
    with triton.client() as client:
        deploy(client, triton.repository, "with_cache")
    return "with_cache"


@pytest.mark.triton
@pytest.mark.parametrize("plan", [SHORT, replace(SHORT, concurrency=0, rate_per_s=50.0)], ids=["closed", "open"])
def test_a_load_that_the_cache_answered_is_invalid(triton: RunningTriton, cached: str, plan: LoadPlan) -> None:
    measured = measuring.measure(target_of(triton.state.address("http"), cached, None), plan, QUICK)
    assert any(REASON in reason for reason in measured.invalid)
    assert measured.cached_share is not None
    assert measured.cached_share > 0.9


@pytest.mark.triton
@pytest.mark.parametrize(
    "mode", [("--slo", "p50=500ms"), ("--compare", "--repeat", "1", "tiny")], ids=["slo", "compare"]
)
def test_the_command_says_so_and_ends_with_1(
    triton: RunningTriton, cached: str, resx: Callable[..., Finished], mode: tuple[str, ...]
) -> None:
    done = resx(
        "bench",
        cached,
        *mode,
        "--duration",
        "0.5",
        "--warmup",
        "0.2",
        "--url",
        triton.url("http"),
        "--json",
        "--repository",
        triton.repository.root,
    )
    assert done.code == 1
    assert "error: INVALID" in done.err
    assert REASON in done.err
    assert len([one for one in done.json["measurements"] if one["model"] == cached]) == 1  # no search goes on


@pytest.mark.triton
def test_a_cache_that_did_not_answer_changes_nothing(triton: RunningTriton, cached: str) -> None:
    target = target_of(triton.state.address("http"), cached, None)
    noise = np.random.default_rng(9).integers(0, 256, (30_000, 1, 3, 16, 16), dtype=np.uint8)
    fresh = Payloads(tensors=tuple(noise), contents="noise that never comes round")
    plan = replace(SHORT, warmup_s=0.0, processes=1)
    measured = measuring.measure(target, plan, replace(QUICK, payloads=lambda _target, _batch: fresh))
    assert measured.cached_share is not None
    assert measured.cached_share <= MOST_CACHED
    assert not any(REASON in reason for reason in measured.invalid)


@pytest.mark.triton
def test_the_cache_of_an_ensembles_member_counts(triton: RunningTriton, cached: str) -> None:
    with triton.client() as client:
        assert models_with_cache(client, f"{cached}_image") == (cached,)
        assert models_with_cache(client, cached) == (cached,)
        assert models_with_cache(client, "tiny") == ()


@pytest.mark.triton
def test_a_capacity_plan_refuses_such_a_measurement_and_an_old_one_that_does_not_say(
    triton: RunningTriton, cached: str
) -> None:
    result = measuring.run(triton.state.address("http"), cached, [SHORT], extras=QUICK)
    batching = Batching(max_batch_size=4, instances=1)
    with pytest.raises(UsageError, match=REASON):
        service_times(result, cached, batching)
    old = json.loads(result.model_dump_json())
    for one in old["measurements"]:
        one["cached_share"] = None
    with pytest.raises(UsageError, match="does not record how many answers came from the response cache"):
        service_times(BenchResult.model_validate(old), cached, batching)


def test_the_share_is_of_the_lookups_between_two_readings_and_of_the_worst_model() -> None:
    before, after = {"m": (5, 10), "n": (0, 0)}, {"m": (6, 110), "n": (50, 100)}
    assert cached_share(before, after) == 0.5
    assert cached_share({"m": (5, 10)}, {"m": (6, 110)}) == 0.01
    assert cached_share({"m": (5, 10)}, {"m": (5, 10)}) == 0.0
    assert cached_share(None, after) is None
    assert why_unusable(None) == why_unusable(0.0) == why_unusable(MOST_CACHED) == ""
    assert "1.1%" in why_unusable(0.011)
