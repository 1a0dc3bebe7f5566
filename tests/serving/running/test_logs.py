"""A log stays small, and is read across its files while it grows."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from resx.serving.running import logs
from resx.serving.supervisor import systemd


def test_a_log_that_grew_too_large_is_rotated_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    for generation in range(6):
        log.write_text(f"generation {generation}\n" + "x" * 100)
        assert logs.rotate(log, max_bytes=50, num_old=3)
    assert log.read_text() == ""
    kept = [logs.number_file(log, number).read_text().splitlines()[0] for number in (1, 2, 3)]
    assert kept == ["generation 5", "generation 4", "generation 3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.log", *(f"server.log.{n}" for n in (1, 2, 3))]


def test_a_small_log_and_one_that_is_not_there_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert not logs.rotate(log)
    log.write_text("short\n")
    assert not logs.rotate(log)
    assert log.read_text() == "short\n"


def test_a_process_that_holds_the_log_open_goes_on_at_its_new_beginning(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("ab", buffering=0) as held:
        held.write(b"before\n" * 20)
        logs.rotate(log, max_bytes=10)
        held.write(b"after\n")
    assert log.read_bytes() == b"after\n"


def test_the_last_lines_reach_back_into_the_older_files(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    logs.number_file(log, 2).write_text("1\n2\n")
    logs.number_file(log, 1).write_text("3\n4\n")
    log.write_text("5\n")
    assert logs.last_lines(log, 3) == ["3", "4", "5"]
    assert logs.last_lines(log, 9) == ["1", "2", "3", "4", "5"]
    assert logs.last_lines(log, 0) == []


@pytest.mark.timeout(60)
def test_following_gives_every_byte_once_across_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"old\n")
    read: list[bytes] = []
    over = threading.Event()
    reader = threading.Thread(
        target=lambda: read.extend(logs.follow(log, len(b"old\n"), over.is_set, poll_s=0.01)), daemon=True
    )
    reader.start()

    def until_read(text: bytes) -> None:
        while not b"".join(read).endswith(text):
            time.sleep(0.01)

    for text in (b"first \xc3", b"\xa4 second\n" * 30):
        with log.open("ab") as file:
            file.write(text)
        until_read(text)
    assert logs.rotate(log, max_bytes=20)
    with log.open("ab") as file:
        file.write(b"third\n")
    until_read(b"third\n")
    over.set()
    reader.join()
    assert b"".join(read) == b"first \xc3" + b"\xa4 second\n" * 30 + b"third\n"


def test_the_supervisors_lines_carry_its_process_id(tmp_path: Path) -> None:
    logs.append(tmp_path / "server.log", "serving again")
    (text,) = logs.last_lines(tmp_path / "server.log", 5)
    assert text.startswith("resx ")
    assert text.endswith(f" {os.getpid()}] serving again")


FORGED = ["broken\nresx 0101 00:00:00 1] ready", "broken\rready", "broken\u2028ready", "\x1b]0;title\x07", "\udcff"]


@pytest.mark.parametrize("text", FORGED)
def test_what_a_model_says_makes_no_line_of_its_own(tmp_path: Path, text: str) -> None:
    logs.append(tmp_path / "server.log", text)
    written = (tmp_path / "server.log").read_bytes()
    assert len(written.decode().splitlines()) == 1
    assert b"\x1b" not in written


@pytest.mark.parametrize("text", ["broken\nMAINPID=1", "broken\nREADY=1", "\udcff"])
def test_a_status_for_systemd_is_one_assignment(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        systemd.notify(f"STATUS={text}")
        received = manager.recv(4096)
    assert received.startswith(b"STATUS=")
    assert b"\n" not in received
