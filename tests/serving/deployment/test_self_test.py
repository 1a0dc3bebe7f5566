"""The canary of a model with a response cache reaches the model, whatever batches it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resx.card.runtime import RuntimeName
from resx.errors import MissingCapability, ParityError, ResxError
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.served_model import canary
from resx.serving.embedded.patches import batcher, response_cache
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from resx.serving.supervisor.health_watch import RequestCounts, num_finished
from tests.support.bad_models import misjudged
from tests.support.running_triton import FREE, RunningTriton, current, stubs_of, wait_until
from tests.support.tiny_models import publish_tiny

CACHE = "response_cache { enable: true }\n"


def with_cache(
    repository: Repository,
    name: str,
    *,
    max_batch_size: int = 4,
    input_type: str = "uint8",
    runtime: RuntimeName = "onnxruntime",
) -> None:
    publish_tiny(repository, name, max_batch_size=max_batch_size, input_type=input_type, runtime=runtime)
    config = repository.root / name / "config.pbtxt"
    config.write_text(config.read_text() + CACHE)


@pytest.mark.triton
@pytest.mark.parametrize(
    ("name", "max_batch_size", "input_type", "runtime"),
    [
        ("cached_room", 4, "uint8", "onnxruntime"),
        ("cached_full", 2, "uint8", "onnxruntime"),
        ("cached_single", 1, "uint8", "onnxruntime"),
        ("cached_float", 4, "float32", "onnxruntime"),
        ("cached_by_openvino", 2, "uint8", "openvino"),
        ("cached_by_openvino_float", 1, "float32", "openvino"),
    ],
)
def test_each_canary_is_computed_though_the_cache_is_on(
    triton: RunningTriton, name: str, max_batch_size: int, input_type: str, runtime: RuntimeName
) -> None:
    pytest.importorskip(runtime)
    with_cache(triton.repository, name, max_batch_size=max_batch_size, input_type=input_type, runtime=runtime)
    with triton.client() as client:
        deploy(client, triton.repository, name)
        card = triton.repository.card(name)
        for _ in range(3):
            before = num_finished(client, name, 1)
            assert canary(client, name, 1, card) <= card.canary.tolerance
            # Triton counts a moment after it answers.
            wait_until(lambda before=before: num_finished(client, name, 1) > before, "it was computed")


@pytest.mark.triton
def test_recorded_rows_are_computed_again_beside_the_new_one(triton: RunningTriton, tmp_path: Path) -> None:
    """A card that records another answer is found, although the right answer lies in the cache."""
    with_cache(triton.repository, "cached_wrong")
    folder = triton.repository.version_folder("cached_wrong")
    with triton.client() as client:
        deploy(client, triton.repository, "cached_wrong")
        misjudged(folder)
        with pytest.raises(ParityError, match="differs from the card's"):
            canary(client, "cached_wrong", 1, triton.repository.card("cached_wrong"))


@pytest.mark.triton
def test_answers_of_the_cache_are_not_taken_for_computed_ones(triton: RunningTriton) -> None:
    with_cache(triton.repository, "cached_counts")
    images = np.zeros((1, 3, 16, 16), np.uint8)
    with triton.client() as client:
        deploy(client, triton.repository, "cached_counts")
        interface = client.interface("cached_counts")
        assert interface.has_cache
        client.infer("cached_counts", interface, images)
        hits = 20
        before = client.statistics("cached_counts")[0]["inference_stats"]["success"]["count"]
        computed = num_finished(client, "cached_counts", 1)
        for _ in range(hits):
            client.infer("cached_counts", interface, images)
        after = client.statistics("cached_counts")[0]["inference_stats"]["success"]["count"]
        canaries = num_finished(client, "cached_counts", 1) - computed
    assert int(after) - int(before) >= hits
    assert canaries < hits


def test_requests_that_only_fail_are_told_from_overload() -> None:
    before = RequestCounts(computed=5, failed=1)
    assert RequestCounts(computed=5, failed=2).has_only_failed_since(before)
    assert not RequestCounts(computed=6, failed=2).has_only_failed_since(before)
    assert not before.has_only_failed_since(before)


def test_only_the_pinned_library_is_touched_and_only_in_one_place(tmp_path: Path) -> None:
    library = tmp_path / batcher.LIBRARY
    content = bytes(0x1B4285) + bytes.fromhex("0f8492000000") + bytes(100)
    library.write_bytes(content)
    response_cache.keep_failures_out(tmp_path)
    after = library.read_bytes()
    assert len(after) == len(content)
    assert {index for index, byte in enumerate(after) if byte != content[index]} == {0x1B4287, 0x1B4288}
    with pytest.raises(MissingCapability, match="from a different wheel"):
        response_cache.keep_failures_out(tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    yield repository
    if running_server(repository):
        detaching.stop(repository)


@pytest.mark.triton
@pytest.mark.parametrize("max_batch_size", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stopped_stub_behind_a_cache_is_found_and_replaced(repository: Repository, max_batch_size: int) -> None:
    with_cache(repository, "m", max_batch_size=max_batch_size)
    state = detaching.serve_detached(repository, FREE)
    (stub,) = stubs_of(state, "m")
    os.kill(stub, signal.SIGSTOP)
    image = np.random.default_rng().integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    with TritonClient(state.address("grpc")) as client:
        interface = client.interface("m")
        with pytest.raises(ResxError, match="not healthy"):
            client.infer("m", interface, image)
        wait_until(lambda: current(repository).restarts == 1 and not current(repository).recovering, "m serves again")
        assert client.infer("m", interface, image).version == 1  # the cache keeps no failure
    assert stub not in stubs_of(current(repository), "m")
