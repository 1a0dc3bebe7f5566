"""A full disk is named, and ends no server: logs and state are for people, answers are for clients."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resx.errors import ResxError
from resx.files.disk_space import why_no_room
from resx.files.staging import write_atomic
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import rehearsal
from resx.serving.embedded.plain_paths import links_folder
from resx.serving.running import logs, state_folders
from resx.serving.running import server_state as states
from resx.serving.running.server_state import ServerState, running_server
from resx.serving.supervisor import detaching
from resx.serving.supervisor.journal import Journal
from tests.support.command import Finished
from tests.support.running_triton import FREE, wait_until
from tests.support.small_disk import small_disk
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], object]]]:
    """A disk of 4 MB, and what fills it."""
    with small_disk(tmp_path / "small", size=4 << 20) as (folder, limit):
        if not folder.is_mount():
            pytest.skip("only root can mount a small disk")
        folder.chmod(0o700)
        yield folder, limit


def test_a_log_on_a_full_disk_takes_nothing_and_raises_nothing() -> None:
    assert logs.append(Path("/dev/full"), "a line") is False
    assert logs.append(Path("/nowhere/server.log"), "a line") is False


@pytest.mark.parametrize("in_the_way", ["log.1", "log.2", "log.3"])
def test_a_log_that_cannot_be_kept_is_dropped_and_stays_bounded(in_the_way: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100)
    for number in (1, 2):
        logs.number_file(log, number).write_text("old")
    (tmp_path / in_the_way).unlink(missing_ok=True)
    (tmp_path / in_the_way / "inside").mkdir(parents=True)
    assert logs.rotate(log, max_bytes=50)
    assert "xxx" not in log.read_text()
    assert ("was dropped" in log.read_text()) == (in_the_way == "log.3"), (
        "a folder is moved on like a file, to the last"
    )


def test_a_log_without_room_for_its_copy_is_dropped(disk: tuple[Path, Callable[[int], object]]) -> None:
    folder, fill = disk
    log = folder / "server.log"
    log.write_bytes(b"x" * 1_000_000)
    with fill(0):  # type: ignore[attr-defined]
        assert logs.rotate(log, max_bytes=500_000)
    assert log.stat().st_size < 1000
    assert not logs.number_file(log, 1).exists()


def test_a_state_that_could_not_be_written_is_written_once_it_can_be(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    said: list[str] = []
    state = ServerState(
        pid=os.getpid(),
        server_pid=0,
        repository="r",
        http_port=1,
        grpc_port=2,
        metrics_port=3,
        started=0.0,
        log=str(folder / states.LOG),
    )
    journal = Journal(folder, state, said.append)
    journal.publish()
    journal.change(restarts=1)
    assert len(said) == 1, "it is told once"
    assert str(folder) in said[0]
    folder.mkdir(mode=0o700)
    deadline = time.monotonic() + 30
    while states.read_state(folder) is None and time.monotonic() < deadline:
        journal.catch_up()
    found = states.read_state(folder)
    assert found is not None
    assert found.restarts == 1
    assert "writable again" in said[-1]


def test_a_full_disk_is_told_by_its_folder(disk: tuple[Path, Callable[[int], object]]) -> None:
    folder, fill = disk
    with fill(0):  # type: ignore[attr-defined]
        assert why_no_room(folder) == os.strerror(errno.ENOSPC)
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomic(folder / "file", b"x" * 8192)
        assert caught.value.filename == str(folder / "file")
        with links_folder(folder) as links:
            assert not links.is_relative_to(folder), "links lie where there is room"
    assert why_no_room(folder) == ""
    assert not list(folder.iterdir())


@pytest.mark.triton
def test_a_server_starts_not_and_dies_not_on_a_full_state_disk(
    disk: tuple[Path, Callable[[int], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resx: Resx
) -> None:
    folder, fill = disk
    monkeypatch.setenv("RESX_STATE", str(folder))
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    ports = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
    state_folders.make_folder(repository)
    with fill(0):  # type: ignore[attr-defined]
        for words in ([], ["--detach"]):
            done = resx("serve", *ports, *words)
            assert done.code == 1
            assert f"{state_folders.folder_of(repository)}: No space left on device" in done.err
            assert done.err.count("error:") == 1
    state = detaching.serve_detached(repository, FREE)
    try:
        with fill(0):  # type: ignore[attr-defined]
            os.kill(state.server_pid, signal.SIGKILL)
            with TritonClient(state.address("grpc"), timeout_s=5) as client:
                wait_until(lambda: client.is_live() and client.model_versions() == {"tiny": [1]}, "it was brought back")
            told = resx("status")
            assert told.code == 0
            assert f"{state_folders.folder_of(repository)}: No space left on device" in told.out
            assert resx("deploy", "tiny").code == 1
        wait_until(lambda: (now := running_server(repository)) is not None and now.restarts == 1, "it is told")
        assert "No space" not in resx("status").out
    finally:
        detaching.stop(repository)


def test_a_full_temporary_folder_is_named_before_a_version_is_tried(
    disk: tuple[Path, Callable[[int], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fill = disk
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    monkeypatch.setattr(rehearsal, "_SENT_TO", folder)
    rehearsal.require_room(repository.find("tiny", 1))
    with fill(0), pytest.raises(ResxError, match=f"{folder}: No space left on device"):  # type: ignore[attr-defined]
        rehearsal.require_room(repository.find("tiny", 1))
