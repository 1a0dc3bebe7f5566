"""Versions change on a real server: forward, back, not at all, and away."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from resx.card.runtime import RUNTIMES
from resx.errors import ServerError, UsageError
from resx.files.locks import exclusive
from resx.repository.versions import Repository
from resx.serving.client.address import PROTOCOLS, Protocol
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import Manner, deploy
from resx.serving.deployment.file_checks import VersionRejected
from resx.serving.deployment.garbage_collection import collect
from resx.serving.deployment.rehearsal import forget_rehearsal, rehearse, version_files
from resx.serving.deployment.rollback import rollback, undeploy, version_before
from resx.serving.deployment.served_model import alone
from resx.serving.embedded.server_ports import Ports
from resx.serving.running import server_state as states
from resx.serving.running import state_folders, version_records
from resx.serving.running.server_state import running_server
from resx.serving.running.version_records import read_deployed
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
IMAGES = np.zeros((1, 3, 16, 16), np.uint8)
Served = tuple[Repository, states.ServerState]


@pytest.fixture(scope="module", params=RUNTIMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over three versions of `tiny`, with nothing loaded; on each runtime."""
    pytest.importorskip(request.param)
    repository = Repository(tmp_path_factory.mktemp("deploy") / "model_repository")
    for seed in range(3):
        publish_tiny(repository, "tiny", seed=seed, runtime=request.param)
    state = detaching.serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--load-none"])
    yield repository, state
    if running_server(repository):
        detaching.stop(repository)


@pytest.fixture
def tiny(server: Served) -> Iterator[tuple[Repository, TritonClient]]:
    """The repository and a client, with version 1 of `tiny` answering and no history."""
    repository, state = server
    shutil.rmtree(state_folders.folder_of(repository) / version_records.PREVIOUS, ignore_errors=True)
    with TritonClient(state.address("grpc")) as client:
        if "tiny" in client.model_versions():
            undeploy(client, repository, "tiny")
        deploy(client, repository, "tiny", 1)
        yield repository, client


def answering(client: TritonClient) -> int:
    return client.infer("tiny", client.interface("tiny"), IMAGES).version


def stubs(state: states.ServerState) -> list[psutil.Process]:
    return [child for child in psutil.Process(state.server_pid).children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_version_is_deployed_by_number_and_a_rollback_goes_there_and_back(
    tiny: tuple[Repository, TritonClient],
) -> None:
    repository, client = tiny
    assert deploy(client, repository, "tiny", 3).previous == 1
    assert (answering(client), read_deployed(repository)) == (3, {"tiny": (3,)})
    back = rollback(client, repository, "tiny")
    assert (back.version, back.previous) == (1, 3), "what answered before, not the version below"
    assert (answering(client), read_deployed(repository)) == (1, {"tiny": (1,)})
    assert rollback(client, repository, "tiny").version == 3
    assert client.model_versions() == {"tiny": [3]}


def test_without_a_history_a_rollback_goes_to_the_version_below(tiny: tuple[Repository, TritonClient]) -> None:
    repository, client = tiny
    with pytest.raises(UsageError, match="version 1 is served and has no previous version"):
        version_before(client, repository, "tiny")
    deploy(client, repository, "tiny", 3)
    shutil.rmtree(state_folders.folder_of(repository) / version_records.PREVIOUS)
    assert version_before(client, repository, "tiny") == 2


def test_a_kept_version_is_recorded_and_a_rollback_to_it_loads_nothing(
    server: Served, tiny: tuple[Repository, TritonClient]
) -> None:
    repository, client = tiny
    done = deploy(client, repository, "tiny", 2, manner=Manner(keep_previous=True))
    assert done.kept
    assert (client.model_versions(), read_deployed(repository)) == ({"tiny": [1, 2]}, {"tiny": (1, 2)})
    assert answering(client) == 2
    before = {stub.pid for stub in stubs(server[1])}
    assert rollback(client, repository, "tiny").version == 1
    assert {stub.pid for stub in stubs(server[1])} <= before, "no process was started for it"
    assert (answering(client), read_deployed(repository)) == (1, {"tiny": (1,)})


def test_an_older_version_cannot_be_kept_in_front_of_a_newer_one(tiny: tuple[Repository, TritonClient]) -> None:
    repository, client = tiny
    deploy(client, repository, "tiny", 2)
    with pytest.raises(UsageError, match="version 2 cannot stay loaded beside 1"):
        deploy(client, repository, "tiny", 1, manner=Manner(keep_previous=True))
    assert answering(client) == 2


def test_no_request_meets_a_version_before_it_has_proved_itself(tiny: tuple[Repository, TritonClient]) -> None:
    """Its file is another model's, so its answers would differ; requests name no version."""
    from tests.support.cards import agree

    repository, client = tiny
    folder = repository.root / "tiny" / "4"
    shutil.copytree(repository.root / "tiny" / "1", folder)
    shutil.copy(repository.root / "tiny" / "2" / "model.onnx", folder / "model.onnx")
    agree(folder)
    seen: set[int] = set()
    halt = threading.Event()

    def ask() -> None:
        with TritonClient(client.address) as other:
            interface = other.interface("tiny")
            while not halt.is_set():
                seen.add(other.infer("tiny", interface, IMAGES).version)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(VersionRejected, match=r"tiny version 4: .*; version 1 kept serving"):
            deploy(client, repository, "tiny")
        assert seen == {1}
        with pytest.raises(VersionRejected, match="version 1 is served again"):
            deploy(client, repository, "tiny", manner=Manner(rehearse=False))
    finally:
        halt.set()
        asking.join(30)
        shutil.rmtree(folder)
    assert (client.model_versions(), read_deployed(repository)) == ({"tiny": [1]}, {"tiny": (1,)})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rehearsal_is_gone_afterwards_and_one_that_was_left_is_removed(server: Served, protocol: Protocol) -> None:
    repository, state = server
    with TritonClient(state.address(protocol)) as client:
        with rehearse(client, repository.find("tiny", 2)) as alias:
            assert client.infer(alias, client.interface(alias), IMAGES).version == 2
        assert not client.is_model_ready(alias)
        config = version_pinning.rehearsal_json(repository.find("tiny", 3), alias)
        client.load(alias, config, version_files(repository.find("tiny", 3)))  # and killed here
        assert client.is_model_ready(alias)
        forget_rehearsal(client, "tiny")
        assert not client.is_model_ready(alias)
        forget_rehearsal(client, "tiny")


def test_a_process_that_dies_in_a_rehearsal_does_not_disturb_the_server(server: Served) -> None:
    repository, state = server
    with TritonClient(state.address("grpc")) as client:
        with rehearse(client, repository.find("tiny", 3)):
            (stub,) = [stub for stub in stubs(state) if "/tmp/folder" in " ".join(stub.cmdline())]
            os.kill(stub.pid, signal.SIGKILL)
            time.sleep(2.5)
            assert client.is_live()
        after = running_server(repository)
        assert after is not None
        assert (after.server_pid, after.restarts) == (state.server_pid, state.restarts)


def test_two_deployments_of_a_model_wait_for_each_other_or_are_refused(
    tiny: tuple[Repository, TritonClient], resx: Callable[..., Finished]
) -> None:
    repository, client = tiny
    steps: list[str] = []
    with exclusive(repository.root / "tiny"):
        refused = resx("deploy", "tiny", "--no-wait", "--repository", repository.root)
        assert refused.code == 1
        assert refused.err.startswith("error: tiny: another command is deploying it")
        waiting = threading.Thread(
            target=lambda: deploy(client, repository, "tiny", 2, on_step=steps.append), daemon=True
        )
        waiting.start()
        deadline = time.monotonic() + 30
        while not steps and time.monotonic() < deadline:
            time.sleep(0.02)
        assert steps == ["wait for another command that is deploying tiny"]
        with TritonClient(client.address) as other:
            assert answering(other) == 1
    waiting.join(60)
    assert answering(client) == 2


def test_a_read_only_repository_can_be_deployed_from(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    folder.chmod(0o555)
    repository = Repository(tmp_path)
    with (
        alone(repository, "tiny"),
        pytest.raises(ServerError, match="another command"),
        alone(repository, "tiny", wait=False),
    ):
        raise AssertionError("it is held")


def test_undeploy_unloads_and_is_remembered(tiny: tuple[Repository, TritonClient]) -> None:
    repository, client = tiny
    assert undeploy(client, repository, "tiny") == [1]
    assert (client.model_versions(), read_deployed(repository)) == ({}, {})
    with pytest.raises(NotLoaded, match="tiny: is not loaded on grpc"):
        undeploy(client, repository, "tiny")
    with pytest.raises(NotLoaded, match="`resx deploy tiny` loads it"):
        rollback(client, repository, "tiny")


def test_a_dry_run_shows_the_change_and_the_checks_and_changes_nothing(
    tiny: tuple[Repository, TritonClient], resx: Callable[..., Finished]
) -> None:
    repository, client = tiny
    before = sorted(path for path in state_folders.folder_of(repository).rglob("*") if path.is_file())
    shown = resx("deploy", "tiny", "--dry-run", "--repository", repository.root)
    assert shown.code == 0, shown.err
    assert "where version 1 answers; nothing was changed" in shown.out
    assert "2. load version 3 as ~tiny, run its self-test, unload it" in shown.out
    changed = [line for line in shown.out.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
    policy = "version_policy {{ specific {{ versions: [{}] }} }}"
    assert changed == ["-" + policy.format(1), "+" + policy.format(3)]
    assert shown.out.endswith(f"\nNext: resx deploy tiny --repository {repository.root}\n")
    assert (client.model_versions(), read_deployed(repository)) == ({"tiny": [1]}, {"tiny": (1,)})
    assert sorted(path for path in state_folders.folder_of(repository).rglob("*") if path.is_file()) == before
    plain = resx("deploy", "tiny", "--dry-run", "--version=1", "--json", "--repository", repository.root).json
    assert (plain["diff"], plain["answering"]) == ([], 1)


def test_a_rejected_version_is_one_line_and_exit_code_3(
    tiny: tuple[Repository, TritonClient], resx: Callable[..., Finished]
) -> None:
    repository, _ = tiny
    folder = repository.root / "tiny" / "4"
    shutil.copytree(repository.root / "tiny" / "1", folder)
    (folder / "model.onnx").write_bytes(b"broken")
    try:
        done = resx("deploy", "tiny", "-q", "--repository", repository.root)
    finally:
        shutil.rmtree(folder)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "not the file that was verified" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy", "tiny", "--version", "9"], "tiny: no version 9; there is 1, 2, 3"),
        (["deploy", "tny"], "did you mean tiny?"),
        (["deploy", "ti ny"], "name 'ti ny'"),
        (["undeploy", "naïve"], "name 'naïve'"),
        (["rollback", "modèle"], "name 'modèle'"),
        (["gc", "a/b"], "name 'a/b'"),
        (["gc", "--keep", "0"], "--keep 0: give 1 or more"),
        (["deploy", "tiny", "--trial", "nan"], "--trial"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    server: Served, resx: Callable[..., Finished], arguments: list[str], said: str
) -> None:
    done = resx(*arguments, "--repository", server[0].root)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_gc_deletes_old_versions_and_none_that_is_needed(
    tiny: tuple[Repository, TritonClient], tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    repository, client = tiny
    for number in (4, 5, 6):
        shutil.copytree(repository.root / "tiny" / "1", repository.root / "tiny" / str(number))
    deploy(client, repository, "tiny", 2)  # so 1 is what a rollback goes to
    try:
        planned = resx("gc", "--keep", "1", "--dry-run", "--json", "--repository", repository.root).json["deleted"]
        assert [entry["version"] for entry in planned] == [3, 4, 5]
        assert repository.versions("tiny") == [1, 2, 3, 4, 5, 6]
        assert [old.version for old in collect(repository, ["tiny"], 3, clients=[client], dry_run=False)] == [3]
        assert repository.versions("tiny") == [1, 2, 4, 5, 6]
        client.load("tiny")  # the newest, which nobody recorded
        shutil.copytree(repository.root / "tiny" / "1", repository.root / "tiny" / "7")
        assert resx("gc", "tiny", "--keep", "1", "--repository", repository.root).code == 0
        assert repository.versions("tiny") == [1, 2, 6, 7], "6 is loaded, 2 deployed, 1 the one before"
        assert not list(repository.root.parent.glob(".*/.staging-*"))
    finally:
        for number in (4, 5, 6, 7):
            shutil.rmtree(repository.root / "tiny" / str(number), ignore_errors=True)
        shutil.copytree(repository.root / "tiny" / "1", repository.root / "tiny" / "3", dirs_exist_ok=True)
