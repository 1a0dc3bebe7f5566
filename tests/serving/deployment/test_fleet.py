"""A version comes to several real servers, one after another, or to none of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.repository.sharing.version_copies import has_copy
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Manner
from resx.serving.deployment.fleet import Rollout, member_at, roll_out
from resx.serving.deployment.rollback import undeploy
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState, running_server
from resx.serving.running.state_folders import folder_of
from resx.serving.running.version_records import previous, read_deployed
from resx.serving.supervisor import detaching
from tests.support.cards import agree
from tests.support.command import Finished, refused
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
IMAGES = np.zeros((1, 3, 16, 16), np.uint8)
BRIEF = Manner(trial_s=0.2)
Resx = Callable[..., Finished]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Two embedded servers over repositories of their own; `tiny` comes from the first one's."""

    source: Repository
    repositories: tuple[Repository, Repository]
    states: tuple[ServerState, ServerState]

    @property
    def urls(self) -> list[str]:
        return [f"127.0.0.1:{state.grpc_port}" for state in self.states]

    @property
    def url(self) -> str:
        return ",".join(self.urls)

    def answering(self) -> list[int]:
        found = []
        for state in self.states:
            with TritonClient(state.address("grpc")) as client:
                found.append(client.infer("tiny", client.interface("tiny"), IMAGES).version)
        return found

    def roll_out(self, version: int | None = None, on_step: Callable[[str], None] = lambda _step: None) -> Rollout:
        members = [member_at(state.address("grpc"), self.source) for state in self.states]
        return roll_out(members, self.source, "tiny", version, manner=BRIEF, on_step=on_step)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    parent = tmp_path_factory.mktemp("fleet")
    repositories = (Repository(parent / "a"), Repository(parent / "b"))
    for repository in repositories:
        repository.root.mkdir()
    publish_tiny(repositories[0], "tiny")
    publish_tiny(repositories[0], "tiny", seed=1)
    try:
        states = [
            detaching.serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--load-none"])
            for repository in repositories
        ]
        yield Fleet(source=repositories[0], repositories=repositories, states=(states[0], states[1]))
    finally:
        for repository in repositories:
            if running_server(repository):
                detaching.stop(repository)


@pytest.fixture
def fleet(servers: Fleet) -> Iterator[Fleet]:
    """Version 1 answers on both; versions that a test adds go afterwards."""
    assert servers.roll_out(1).ended_by is None
    yield servers
    for repository in servers.repositories:
        for version in repository.versions("tiny"):
            if version > 2:
                shutil.rmtree(repository.root / "tiny" / str(version))


def add_version_3(fleet: Fleet, repository: Repository, *, file_of: int) -> None:
    """Give a repository a version 3 with the card of version 1, whose file may be that of version 2."""
    versions, folder = fleet.source.root / "tiny", repository.root / "tiny" / "3"
    shutil.copytree(versions / "1", folder)
    shutil.copy(versions / str(file_of) / "model.onnx", folder / "model.onnx")
    agree(folder)


def test_a_version_comes_to_both_in_turn_and_into_the_repository_of_each(fleet: Fleet, resx: Resx) -> None:
    assert fleet.answering() == [1, 1]
    done = resx("deploy", "tiny", "--trial", "0.2", "--url", fleet.url, "--repository", fleet.source.root)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.partition(": tiny")[0] for line in lines] == [f"grpc://{url}" for url in fleet.urls]
    proof = "tiny version 2 is deployed: self-test passed (error "
    assert all(proof in line and line.endswith(", replaced version 1") for line in lines)
    steps = done.err.splitlines()
    first = [number for number, step in enumerate(steps) if fleet.urls[0] in step]
    second = [number for number, step in enumerate(steps) if fleet.urls[1] in step]
    assert first
    assert max(first) < min(second), "the second server is changed after the first has proved the version"
    assert fleet.answering() == [2, 2]
    assert [read_deployed(repository) for repository in fleet.repositories] == [{"tiny": (2,)}] * 2
    assert has_copy(fleet.source, fleet.repositories[1], "tiny", 2)


def test_a_canary_that_fails_on_the_second_server_puts_the_first_back(fleet: Fleet, resx: Resx, tmp_path: Path) -> None:
    """To the command the second is elsewhere, so taken to have the same files; but its version 3 is another."""
    first, second = fleet.repositories
    add_version_3(fleet, first, file_of=1)
    add_version_3(fleet, second, file_of=2)
    known = tmp_path / "state/servers" / folder_of(first).name
    shutil.copytree(folder_of(first), known, symlinks=True)
    key = fleet.states[1].address("grpc").control_key
    history = previous(first, "tiny")
    with exclusive(known):  # as the server's supervisor does
        done = resx(
            "deploy",
            "tiny",
            "--trial",
            "0.2",
            "--url",
            fleet.url,
            "--repository",
            first.root,
            env={"RESX_STATE": str(tmp_path / "state"), "RESX_CONTROL_KEY": key},
        )
    assert done.code == 3, done.err
    assert done.out.splitlines() == [
        f"grpc://{fleet.urls[0]}: rolled back, version 1 answers again",
        f"grpc://{fleet.urls[1]}: version 3 refused, version 1 answers",
    ]
    (error,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert error.startswith(f"error: grpc://{fleet.urls[1]}: tiny version 3: the served answer differs")
    assert fleet.answering() == [1, 1]
    assert [read_deployed(repository) for repository in fleet.repositories] == [{"tiny": (1,)}] * 2
    assert json.loads((known / "deployed/tiny").read_text()) == [1]
    assert previous(first, "tiny") == history
    assert history.items() <= json.loads((known / "previous/tiny").read_text()).items()


def test_a_server_that_does_not_answer_is_found_before_anything_is_changed(fleet: Fleet, resx: Resx) -> None:
    add_version_3(fleet, fleet.source, file_of=1)
    dead = f"127.0.0.1:{Ports(http=0, grpc=0, metrics=0).resolved().grpc}"
    done = resx("deploy", "tiny", "--url", f"{fleet.url},{dead}", "--repository", fleet.source.root)
    refused(done, 4, dead, "connection refused", "no server was changed")
    assert fleet.answering() == [1, 1]
    assert 3 not in fleet.repositories[1].versions("tiny"), "nor was anything published"


def test_an_interruption_in_the_middle_puts_all_back(fleet: Fleet) -> None:
    def interrupt(step: str) -> None:
        if step.startswith(f"grpc://{fleet.urls[1]}: load version 2"):
            assert fleet.answering() == [2, 1]
            raise KeyboardInterrupt

    rollout = fleet.roll_out(2, interrupt)
    assert isinstance(rollout.ended_by, KeyboardInterrupt)
    assert [outcome.happened for outcome in rollout.outcomes] == ["rolled back", "refused"]
    assert fleet.answering() == [1, 1]


def test_a_model_that_no_server_had_is_unloaded_again(fleet: Fleet) -> None:
    def interrupt(step: str) -> None:
        if step.startswith(f"grpc://{fleet.urls[1]}: load version"):
            raise KeyboardInterrupt

    for repository, state in zip(fleet.repositories, fleet.states, strict=True):
        with TritonClient(state.address("grpc")) as client:
            undeploy(client, repository, "tiny")
    assert [one.happened for one in fleet.roll_out(1, interrupt).outcomes] == ["rolled back", "refused"]
    for state in fleet.states:
        with TritonClient(state.address("grpc")) as client:
            assert client.model_versions() == {}
    assert [read_deployed(repository) for repository in fleet.repositories] == [{}, {}]


def test_a_repository_with_another_version_of_that_number_is_refused(fleet: Fleet) -> None:
    add_version_3(fleet, fleet.source, file_of=1)
    add_version_3(fleet, fleet.repositories[1], file_of=2)
    with pytest.raises(UsageError, match="is a different version with the same number.*no server was changed"):
        fleet.roll_out(3)
    assert fleet.answering() == [1, 1]


def test_a_dry_run_says_what_would_be_done_to_each_and_json_is_one_object(fleet: Fleet, resx: Resx) -> None:
    add_version_3(fleet, fleet.source, file_of=1)
    arguments = ("deploy", "tiny", "--url", fleet.url, "--repository", fleet.source.root)
    shown = resx(*arguments, "--dry-run", "--json").json["servers"]
    assert [(one["answering"], one["publishes"]) for one in shown] == [(1, False), (1, True)]
    assert fleet.answering() == [1, 1]
    done = resx(*arguments, "--version", "1", "--json").json
    assert done["deployed"] is True
    assert [(one["happened"], one["previous"]) for one in done["servers"]] == [("deployed", 1)] * 2


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("127.0.0.1:{0},localhost:{0}", [], "are the same server; list each once"),
        ("{0},{0}", [], "--url"),
        ("grpc://127.0.0.1:{0},http://127.0.0.1:{1}", [], "are the same server; list each once"),
        ("127.0.0.1:{0},", [], "an address is empty"),
        ("127.0.0.1:{0},ftp://x:1", [], "--url ftp://x:1"),
        ("127.0.0.1:{0},x:1", ["--best-under", "5ms"], "--best-under measures one server"),
    ],
)
def test_a_list_that_cannot_be_is_one_line_and_exit_code_2(
    fleet: Fleet, resx: Resx, url: str, options: list[str], said: str
) -> None:
    state = fleet.states[0]
    given = url.format(state.grpc_port, state.http_port)
    refused(resx("deploy", "tiny", "--url", given, *options, "--repository", fleet.source.root), 2, said)


def test_other_commands_take_one_address(fleet: Fleet, resx: Resx) -> None:
    refused(resx("rollback", "tiny", "--url", fleet.url, "--repository", fleet.source.root), 2, "give host:port")
