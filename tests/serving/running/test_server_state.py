"""What outlives a process: state, records of what is deployed, and what a killed supervisor left."""

import json
import os
import time
from pathlib import Path

import pytest

from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.repository.versions import Repository
from resx.serving.running import server_state as states
from resx.serving.running import state_folders, version_records
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.policy import Policy


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "state"))
    return Repository(tmp_path / "model_repository")


def some_state(folder: Path) -> ServerState:
    return ServerState(
        pid=os.getpid(),
        server_pid=1,
        repository="r",
        http_port=1,
        grpc_port=2,
        metrics_port=3,
        started=time.time(),
        log=str(folder / "server.log"),
    )


def test_what_is_deployed_is_recorded_per_model(repository: Repository) -> None:
    state_folders.make_folder(repository)
    assert version_records.read_deployed(repository) == {}
    version_records.record_deployed(repository, "a", [3, 2])
    version_records.record_deployed(repository, "b", [1])
    version_records.record_deployed(repository, "b", [])
    version_records.record_deployed(repository, "never-there", [])
    assert version_records.read_deployed(repository) == {"a": (2, 3)}


def test_a_record_that_cannot_be_read_is_no_model(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    (folder / state_folders.DEPLOYED / "a").write_text("[1")
    assert version_records.read_deployed(repository) == {}


def test_a_name_that_is_a_path_is_refused(repository: Repository) -> None:
    state_folders.make_folder(repository)
    with pytest.raises(UsageError, match="'../x'"):
        version_records.record_deployed(repository, "../x", [1])


def test_a_state_file_counts_only_while_its_supervisor_holds_the_lock(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    states.write_state(folder, some_state(folder))
    assert states.running_server(repository) is None, "a dead one left it"
    with exclusive(folder):
        assert states.running_server(repository) == some_state(folder).model_copy(
            update={"started": states.read_state(folder).started}  # type: ignore[union-attr]
        )


def test_a_state_file_of_another_version_is_no_server(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    (folder / states.STATE).write_text('{"pid": 1}')
    with exclusive(folder):
        assert states.running_server(repository) is None


def test_a_server_of_a_newer_version_is_found_and_can_be_stopped(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    fields = some_state(folder).model_dump() | {
        "x": 1,
        "last_recovery": {
            "reason": "r",
            "detected_s": 1.0,
            "serving_s": 2.0,
            "y": 2,
        },
    }
    (folder / states.STATE).write_text(json.dumps(fields))
    (folder / states.ENDED).write_text('{"reason": "r", "ended": 1.0, "restarts": 0, "log": "l", "z": 3}')
    with exclusive(folder):
        found = states.running_server(repository)
    assert found is not None
    assert found.pid == os.getpid()
    ended = states.gave_up(repository)
    assert ended is not None
    assert ended.reason == "r"


def test_a_state_folder_that_cannot_be_made_is_named_with_the_remedy(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(UsageError, match="state.*: Not a directory; set RESX_STATE"):
        state_folders.make_folder(repository)


def test_the_waits_between_failed_tries_double_up_to_half_a_minute() -> None:
    policy = Policy()
    assert [policy.wait_s(failed) for failed in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert policy.wait_s(50) == 30.0
    with pytest.raises(UsageError, match="max_tries=0"):
        Policy(max_tries=0)
