"""A log stays small, and is read across its files while it grows."""

import os
import threading
import time
from pathlib import Path

import pytest

from resx.serving import logs


def test_a_log_that_grew_too_large_is_rotated_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    for generation in range(6):
        log.write_text(f"generation {generation}\n" + "x" * 100)
        assert logs.rotate(log, max_bytes=50, num_old=3)
    assert log.read_text() == ""
    kept = [logs.numbered(log, number).read_text().splitlines()[0] for number in (1, 2, 3)]
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
    logs.numbered(log, 2).write_text("1\n2\n")
    logs.numbered(log, 1).write_text("3\n4\n")
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
