"""How a server ends, and how it does not: signals, a closed terminal, `resx stop` at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from resx.repository.versions import Repository
from resx.serving.running.server_state import running_server
from resx.serving.running.start_marks import DETACHING, OWNER, announce, read_announced
from resx.serving.running.state_folders import folder_of, make_folder
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.running_triton import wait_until
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
Resx = Callable[..., Finished]
SERVE = [sys.executable, "-m", "resx", "serve", "--http-port=0", "--grpc-port=0", "--metrics-port=0"]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    yield repository
    detaching.stop(repository)


def serve(repository: Repository, *words: str, ignoring: signal.Signals | None = None) -> subprocess.Popen[str]:
    def set_signals() -> None:  # the tests may run under nohup themselves
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if number == ignoring else signal.SIG_DFL)

    return subprocess.Popen(
        [*SERVE, *words],
        cwd=repository.root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_signals,
    )


def is_free(repository: Repository) -> bool:
    """Say whether nothing serves or begins to."""
    folder = folder_of(repository)
    return not (running_server(repository) or read_announced(folder, OWNER) or read_announced(folder, DETACHING))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM])
def test_a_closed_terminal_ends_a_server_as_sigterm_does(number: signal.Signals, repository: Repository) -> None:
    with serve(repository) as process:
        wait_until(lambda: running_server(repository) is not None, "it serves")
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "finishing in-flight requests" in told
    assert is_free(repository)


def test_under_nohup_a_closed_terminal_ends_nothing(repository: Repository) -> None:
    with serve(repository, ignoring=signal.SIGHUP) as process:
        wait_until(lambda: running_server(repository) is not None, "it serves")
        process.send_signal(signal.SIGHUP)
        assert detaching.stop(repository), "it served until now"
        _, told = process.communicate(timeout=60)
    assert told.count("finishing in-flight requests") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_detaching_command_that_is_ended_takes_its_server_along(
    number: signal.Signals, repository: Repository
) -> None:
    with serve(repository, "--detach") as process:
        folder = folder_of(repository)
        wait_until(lambda: read_announced(folder, OWNER) is not None, "the server is starting")
        supervisor = read_announced(folder, OWNER)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told.splitlines()[-1]) == (130, "error: interrupted")
    assert supervisor is not None
    assert not psutil.pid_exists(supervisor.pid)
    assert is_free(repository)


@pytest.mark.parametrize("words", [[], ["--detach"]], ids=["foreground", "detached"])
def test_stop_ends_a_server_that_is_starting(words: list[str], repository: Repository, resx: Resx) -> None:
    with serve(repository, *words) as process:
        file = DETACHING if words else OWNER
        wait_until(lambda: read_announced(folder_of(repository), file) is not None, "it is starting")
        stopped = resx("stop", "--json")
        assert stopped.code == 0, stopped.err
        assert stopped.json["stopped"] is not None
        process.communicate(timeout=60)
    assert is_free(repository)


def test_stop_ends_a_server_that_gets_ready_just_after_the_look_for_one(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = detaching.serve_detached(repository, detaching.Ports(http=0, grpc=0, metrics=0))
    monkeypatch.setattr(detaching, "running_server", lambda _repository: None)
    assert detaching.stop(repository) == state.process
    monkeypatch.undo()
    assert is_free(repository)


def test_stop_finds_the_server_whose_detaching_command_was_killed(repository: Repository) -> None:
    with serve(repository, "--detach") as process:
        wait_until(lambda: read_announced(folder_of(repository), OWNER) is not None, "the server is starting")
        supervisor = read_announced(folder_of(repository), OWNER)
        process.kill()
    stopped = detaching.stop(repository)
    assert stopped is not None
    assert supervisor is not None
    assert stopped.pid == supervisor.pid
    assert is_free(repository)


def test_stop_ends_a_server_that_recovers(repository: Repository) -> None:
    state = detaching.serve_detached(repository, detaching.Ports(http=0, grpc=0, metrics=0))
    os.kill(state.server_pid, signal.SIGKILL)
    time.sleep(0.3)
    assert detaching.stop(repository) is not None
    assert is_free(repository)


def test_a_record_of_a_process_that_is_gone_names_nobody(repository: Repository) -> None:
    folder = make_folder(repository)
    with announce(folder, OWNER):
        assert read_announced(folder, OWNER) is not None
        record = json.loads((folder / OWNER).read_text())
    (folder / OWNER).write_text(json.dumps(record | {"start_ticks": record["start_ticks"] + 1}))
    (folder / OWNER).chmod(0o600)
    assert read_announced(folder, OWNER) is None
    assert detaching.stop(repository) is None, "the process of that id is another one, and lives"


@pytest.mark.parametrize("streams", ["stdout", "both"])
def test_a_server_whose_output_nobody_reads_any_more_goes_on(streams: str, repository: Repository) -> None:
    process = subprocess.Popen(
        SERVE,
        cwd=repository.root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if streams == "both" else subprocess.DEVNULL,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    wait_until(lambda: running_server(repository) is not None, "it serves")
    state = running_server(repository)
    assert state is not None
    os.kill(state.server_pid, signal.SIGKILL)  # what it says of that reaches nobody
    wait_until(lambda: (found := running_server(repository)) is not None and found.restarts == 1, "it was brought back")
    assert detaching.stop(repository) is not None
    assert process.wait(60) == 0
