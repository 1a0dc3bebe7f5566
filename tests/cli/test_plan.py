"""`resx plan` as a user types it: from a stored benchmark without a server, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from resx.bench.capacity.service_times import SLEEP_MS, batching_of
from resx.bench.results.result import Measurement
from resx.bench.results.server_statistics import ServerBreakdown
from resx.repository.versions import Repository
from tests.support.command import Finished, refused
from tests.support.report_page import measurement, result
from tests.support.tiny_models import publish_tiny

SIZES = (1, 2, 3, 4)


def load(concurrency: int, batches: dict[int, int], *, model: str = "tiny") -> Measurement:
    """Return a closed loop in which a batch took 2 ms and another half for each image."""
    took_ms = {size: 2 + 0.5 * size for size in batches}
    executions = sum(batches.values())
    images = sum(size * count for size, count in batches.items())
    server = ServerBreakdown(
        requests=images,
        executions=executions,
        mean_batch_size=images / executions,
        queue_ms=0.1,
        compute_input_ms=0.02,
        compute_infer_ms=3.0,
        compute_output_ms=0.1,
        batches=batches,
        batch_compute_ms=took_ms,
    )
    return measurement(model=model, concurrency=concurrency, server=server)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a repository that holds `tiny`, and a benchmark of it."""
    folder = tmp_path_factory.mktemp("plan")
    publish_tiny(Repository(folder / "model_repository"), "tiny")
    loads = [load(1, {1: 500}), load(8, dict.fromkeys(SIZES, 200)), load(12, {4: 300})]
    (folder / "bench.json").write_text(result(*loads, model="tiny").model_dump_json())
    (folder / "other.json").write_text(result(load(8, {4: 300}, model="other"), model="other").model_dump_json())
    return folder


def test_a_plan_needs_no_server_and_more_load_needs_more_replicas(home: Path, resx: Callable[..., Finished]) -> None:
    words = ("plan", "tiny", "--slo", "p99=50ms", "--bench", "bench.json", "--json", "-q")
    few, many = (resx(*words, "--rate", str(rate), cwd=home).json for rate in (500, 5000))
    assert few["replicas"] < many["replicas"]
    for found in (few, many):
        assert found["expected"]["holds"]
        assert found["expected"]["p99_ms"]["mean"] <= 50
        assert found["headroom"] >= 1
    assert not many["one_fewer"]["holds"]


def test_a_plan_names_its_cost_and_draws(home: Path, tmp_path: Path, resx: Callable[..., Finished]) -> None:
    words = ("plan", "tiny", "--rate", "2000", "--slo", "p99=50ms", "--bench", "bench.json")
    done = resx(*words, "--cost-per-hour", "0.4", "--plot", tmp_path / "plan.png", "-q", cwd=home)
    assert done.code == 0, done.err
    assert "Cost: " in done.out
    assert "docs/capacity.md" in done.out
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--rate", "100", "--slo", "p99=2ms", "--bench", "bench.json"), 3, ("a single request takes", "p99=2ms")),
        (("--rate", "100", "--slo", "p99=50ms", "--bench", "other.json"), 2, ("other.json: measures other, not tiny",)),
        (("--rate", "100", "--slo", "p99=50ms", "--bench", "missing.json"), 2, ("missing.json",)),
        (("--rate", "100", "--slo", "50ms", "--bench", "bench.json"), 2, ("--slo 50ms", "p99=15ms")),
        (("--rate", "0", "--slo", "p99=50ms", "--bench", "bench.json"), 2, ("rate",)),
        (("--rate", "1e9", "--slo", "p99=50ms", "--bench", "bench.json"), 2, ("at most 10,000,000",)),
        (("--rate", "100", "--slo", "p99=50ms", "--bench", "bench.json", "--plot", "plan.doc"), 2, ("plan.doc",)),
        (("--rate", "100", "--slo", "p99=50ms", "--bench", "bench.json", "--balancing", "x"), 2, ("round-robin",)),
        (("--rate", "100", "--slo", "p99=50ms"), 4, ("resx serve",)),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(
    home: Path, resx: Callable[..., Finished], arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    refused(resx("plan", "tiny", *arguments, "-q", cwd=home), code, *words)


def test_a_bounded_queue_fetches_ahead_here_and_sleeps_in_the_container() -> None:
    config = {
        "max_batch_size": 8,
        "instance_group": [{"count": 2}],
        "dynamic_batching": {"default_queue_policy": {"max_queue_size": 32}},
    }
    here, container = batching_of(config), batching_of(config, sleep_ms=500)
    assert (here.sleep_s, here.max_queue_size) == (0.0, 32 + 2 * 2 * 8)
    assert (container.sleep_s, container.max_queue_size) == (0.5, 32)


def test_a_timeout_holds_requests_back_here_too() -> None:
    policy = {"default_timeout_microseconds": 1000}
    found = batching_of({"max_batch_size": 8, "dynamic_batching": {"default_queue_policy": policy}})
    assert found.sleep_s == SLEEP_MS / 1e3
