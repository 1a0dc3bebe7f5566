"""What a server starts with after it was stopped: what was chosen, while others collect garbage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.running import version_records
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

pytestmark = [pytest.mark.triton, pytest.mark.slow]
Resx = Callable[..., Finished]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """Three versions of `tiny`."""
    repository = Repository(tmp_path / "model_repository")
    for seed in range(3):
        publish_tiny(repository, "tiny", seed=seed)
    yield repository
    if running_server(repository):
        detaching.stop(repository)


@pytest.fixture
def run(resx: Resx) -> Callable[..., str]:
    def done(*words: str, code: int = 0, env: dict[str, str] | None = None) -> str:
        finished = resx(*words, env=env)
        assert finished.code == code, finished.err
        return finished.out

    return done


def serve(run: Callable[..., str], *words: str) -> dict[str, object]:
    ports = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
    return dict(json.loads(run("serve", "--detach", "--json", *ports, *words)))


def test_what_was_rolled_back_to_answers_after_a_stop_and_no_other_state_folder_deletes_it(
    repository: Repository, run: Callable[..., str], tmp_path: Path
) -> None:
    other = {"RESX_STATE": str(tmp_path / "other")}
    assert serve(run)["models"] == {"tiny": [3]}
    run("deploy", "tiny", "--version=2", "--trial=0")
    run("deploy", "tiny", "--version=3", "--trial=0")
    run("rollback", "tiny")
    assert "Kept tiny version 2: loaded on a running server" in run("gc", "--keep=1", env=other)
    assert repository.versions("tiny") == [2, 3]
    run("stop")
    publish_tiny(repository, "tiny", seed=3)
    told = run("gc", "--keep=1", env=other)
    assert "Kept tiny version 2: " in told
    assert "if it no longer exists, delete model_repository/.in-use." in told

    again = serve(run)
    assert (again["models"], again["newer"]) == ({"tiny": [2]}, {"tiny": 4})
    run("rollback", "tiny")
    with TritonClient(running_server(repository).address("grpc")) as client:  # type: ignore[union-attr]
        assert client.model_versions() == {"tiny": [3]}, "what a rollback goes to survived, too"


def test_a_model_that_was_undeployed_stays_out_until_it_is_named(
    repository: Repository, run: Callable[..., str]
) -> None:
    publish_tiny(repository, "other")
    serve(run)
    run("deploy", "tiny", "--version=1", "--trial=0")
    run("undeploy", "other")
    run("stop")
    again = serve(run)
    assert (again["models"], again["not_loaded"]) == ({"tiny": [1]}, ["other"])
    run("stop")
    assert serve(run, "--load=other")["models"] == {"other": [1]}
    assert version_records.read_deployed(repository) == {"other": (1,)}, "a crash brings back no more than that"
    run("stop")
    assert serve(run, "--load=tiny")["models"] == {"tiny": [1]}, "--load names a model, not a version"


def test_a_chosen_version_that_is_gone_gives_way_to_the_newest(
    repository: Repository, run: Callable[..., str], tmp_path: Path
) -> None:
    version_records.record_chosen(repository, version_records.OURS, "tiny", [7])
    assert serve(run)["models"] == {"tiny": [3]}
