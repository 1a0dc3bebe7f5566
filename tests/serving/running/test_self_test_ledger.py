"""The requests of `resx status` are those of others: resx's self-tests are left out, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.self_test_ledger import FILE, SelfTests, look_beside
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.command import Resx
from tests.support.running_triton import current, wait_until
from tests.support.tiny_models import publish_tiny


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """The one that commands find by default; its server is ended."""
    repository = Repository(tmp_path / "model_repository")
    yield repository
    stop(repository)


def answered(repository: Repository, name: str) -> int:
    """Return how many requests Triton says that a model answered."""
    with TritonClient(current(repository).address("grpc"), timeout_s=30) as client:
        return sum(int(entry["inference_stats"]["success"]["count"]) for entry in client.statistics(name))


def requests(resx: Resx) -> dict[str, int]:
    return {model["name"]: model["requests"] for model in resx("status", "--json").json["models"]}


@pytest.mark.triton
@pytest.mark.integration
def test_status_counts_what_others_ask_and_no_self_test(repository: Repository, resx: Resx, tmp_path: Path) -> None:
    publish_tiny(repository, "tiny", image_endpoint=True)
    publish_tiny(repository, "idle")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    wait_until(lambda: min(answered(repository, name) for name in ("tiny", "idle")) >= 3, "self-tests", 300)

    assert set(requests(resx).values()) == {0}
    idle = next(model for model in resx("status", "--json").json["models"] if model["name"] == "idle")
    assert (idle["p50_ms"], idle["mean_ms"]) == (None, None), "of self-tests alone"
    assert idle["self_tests"] >= 3
    assert resx("query", "tiny", "photo.png").code == 0
    assert resx("query", "tiny", "photo.png", "--raw").code == 0
    wait_until(lambda: requests(resx)["tiny"] == 2, "Triton counts a request soon after its answer")
    assert requests(resx)["tiny_image"] == 1
    assert requests(resx)["idle"] == 0
    shown, state = resx("status").out, current(repository)
    assert "Requests exclude resx's own self-tests" in shown
    for line in (
        f"HTTP:    http://127.0.0.1:{state.http_port}\n",
        f"gRPC:    grpc://127.0.0.1:{state.grpc_port}\n",
        f"metrics: http://127.0.0.1:{state.metrics_port}/metrics\n",
    ):
        assert line in shown

    publish_tiny(repository, "tiny", seed=1)
    assert resx("deploy", "tiny").code == 0
    wait_until(lambda: set(requests(resx).values()) == {0}, "the supervisor looks at what was deployed")
    assert resx("query", "tiny", "photo.png").code == 0
    wait_until(lambda: requests(resx)["tiny"] == 1, "the new version's own")


def test_a_look_waits_for_the_self_test_that_is_under_way(tmp_path: Path) -> None:
    folder = tmp_path
    notes = iter([
        SelfTests(answered={"m": {1: 7}}, testing="m"),
        SelfTests(answered={"m": {1: 8}}, testing="other"),
    ])  # fmt: skip

    def note(tests: SelfTests) -> None:
        (folder / FILE).write_text(tests.model_dump_json())
        (folder / FILE).chmod(0o600)

    note(next(notes))
    looks = []

    def look() -> int:
        looks.append(len(looks))
        if len(looks) == 2:
            note(next(notes))  # it changes during the second look
        return len(looks)

    assert look_beside(folder, "m", [1], look) == (3, {1: 8})


def test_a_look_waits_for_a_version_that_was_deployed_just_now(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(SelfTests(answered={"m": {1: 7}}).model_dump_json())
    (tmp_path / FILE).chmod(0o600)
    looks = []

    def look() -> int:
        looks.append(len(looks))
        if len(looks) == 2:
            (tmp_path / FILE).write_text(SelfTests(answered={"m": {2: 1}}).model_dump_json())
        return len(looks)

    assert look_beside(tmp_path, "m", [2], look) == (3, {2: 1})


def test_without_notes_a_look_is_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resx.serving.running.self_test_ledger._SETTLES_S", 0.0)
    assert look_beside(tmp_path, "m", [1], lambda: 5) == (5, None)
    (tmp_path / FILE).write_text("{")
    assert look_beside(tmp_path, "m", [1], lambda: 5) == (5, None)
