"""Versions change, commands are killed and hostile requests come in under load; `make faults` does the same for longer.

How long something took is for a quiet machine to say: those bars are left to `make faults`.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from benchmarks import fault_commands, fault_deploys, fault_requests, fault_strain
from benchmarks.fault_clients import Row, line
from PIL import Image

from resx.errors import ResxError
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Manner, deploy
from resx.serving.deployment.rollback import undeploy
from resx.serving.supervisor import detaching
from tests.support.running_triton import FREE, current, stub_of, wait_until
from tests.support.tiny_models import publish_tiny

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]


def held(rows: list[Row]) -> None:
    for row in rows:
        assert row.wrong == 0, line(row)
        assert not [bar for bar in row.missed if "after" not in bar], line(row)


def test_version_swaps_lose_nothing_and_every_answer_names_its_version() -> None:
    rows = fault_deploys.swaps(5)
    held(rows)
    assert rows[0].lost == 0
    assert rows[0].sent > 100


@pytest.mark.parametrize("name", list(fault_deploys.SPOILED))
def test_a_bad_version_costs_no_request(name: str) -> None:
    row = fault_deploys.bad_version(name, fault_deploys.SPOILED[name], times=1)
    held([row])
    assert row.lost == 0


def test_killed_deployments_lose_nothing_and_the_next_one_clears_up() -> None:
    held(fault_commands.killed_deploys(2))


def test_killed_exports_leave_a_valid_repository() -> None:
    held(fault_commands.killed_exports(2))


def test_a_full_disk_leaves_a_valid_repository() -> None:
    held(fault_commands.disk_full(2))


def test_hostile_requests_are_refused() -> None:
    held(fault_requests.hostile(1))


def test_overload_is_no_fault() -> None:
    """The canary is refused as everybody is, and the supervisor must leave the server alone."""
    (row,) = fault_strain.overload(6)
    held([row])
    assert row.lost == 0


def test_a_hanging_model_is_found_though_its_queue_is_full(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    state = detaching.serve_detached(repository, FREE, ["--canary-timeout=2"])
    halt = threading.Event()

    def ask() -> None:
        with TritonClient(state.address("grpc"), timeout_s=20) as client:
            while not halt.is_set():
                with contextlib.suppress(ResxError):
                    client.infer("tiny", interface, np.zeros((1, 3, 16, 16), np.uint8))
                halt.wait(0.02)

    asking = [threading.Thread(target=ask) for _ in range(60)]  # the queue takes 32
    try:
        with TritonClient(state.address("grpc")) as client:
            interface = client.interface("tiny")
        os.kill(stub_of(state), signal.SIGSTOP)
        for thread in asking:
            thread.start()
        wait_until(lambda: current(repository).restarts > 0, "it is brought back", 120)
    finally:
        halt.set()
        for thread in asking:
            thread.join(60)
        detaching.stop(repository)


def test_an_image_endpoint_follows_its_model_without_losing_a_request(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    for seed in (0, 1):
        publish_tiny(repository, "tiny", seed=seed, image_endpoint=True)
    photograph = io.BytesIO()
    Image.effect_noise((32, 32), 50).convert("RGB").save(photograph, "PNG")
    state = detaching.serve_detached(repository, FREE)
    answers: set[str] = set()
    halt = threading.Event()
    failures: list[Exception] = []

    def ask() -> None:
        with TritonClient(state.address("grpc")) as client:
            while not halt.is_set():
                try:
                    answers.add(f"{client.classify_file('tiny_image', photograph.getvalue())[0].logit:.4f}")
                except Exception as error:
                    failures.append(error)

    asking = threading.Thread(target=ask)
    try:
        with TritonClient(state.address("grpc")) as client:
            asking.start()
            for version in (1, 2, 1, 2):
                deploy(client, repository, "tiny", version, manner=Manner(trial_s=0.2))
            halt.set()
            asking.join(60)
            assert not failures
            assert len(answers) == 2, "both versions answered"
            undeploy(client, repository, "tiny")
            assert client.model_versions() == {}
    finally:
        halt.set()
        detaching.stop(repository)
