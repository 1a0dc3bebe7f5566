"""The bounds of what is read: no pipe is waited for, no device read, and never more than the limit."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resx.data.image_decoding import load_image
from resx.errors import UsageError
from resx.files.reading import Budget, ReadLimits, read_bounded, read_limits, read_to_limit, set_limits
from resx.files.staging import sha256_of
from resx.zoo.spec import read_spec


def special(folder: Path) -> list[tuple[Path, str]]:
    """Return what is no regular file, with what it is called."""
    os.mkfifo(folder / "pipe")
    (folder / "to-pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    return [
        (folder / "pipe", "a pipe"),
        (folder / "to-pipe", "a pipe"),
        (folder / "socket", "a socket"),
        (Path("/dev/zero"), "a device"),
    ]


def test_what_is_no_regular_file_is_refused_by_every_reader_and_none_waits(tmp_path: Path) -> None:
    for path, what in special(tmp_path):
        for read in (lambda path: read_bounded(path, 10), sha256_of, read_spec, load_image):
            with pytest.raises(UsageError, match=rf"^{path}: {what}, not a regular file; give a file$"):
                read(path)
    with pytest.raises(IsADirectoryError):
        read_bounded(tmp_path, 10)


def test_no_more_is_read_than_the_limit_whatever_the_size_says(tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(bytes(10))
    assert read_bounded(tmp_path / "ten", 10) == bytes(10)
    with pytest.raises(UsageError, match=r"ten: file of 10 bytes: the limit is 9; make it smaller"):
        read_bounded(tmp_path / "ten", 9)
    lying = Path("/proc/self/status")
    assert lying.stat().st_size == 0
    assert read_bounded(lying, 10**6).startswith(b"Name:")
    with pytest.raises(UsageError, match=r"status: file of more than 9 bytes, the limit"):
        read_bounded(lying, 9)


def test_a_stream_without_an_end_is_read_up_to_the_limit() -> None:
    class Endless:
        given = 0

        def read(self, size: int, /) -> bytes:
            self.given += min(size, 7)
            return bytes(min(size, 7))

    stream = Endless()
    with pytest.raises(UsageError, match="x: file of more than 1,000 bytes"):
        read_to_limit(stream, 1000, "x")
    assert stream.given == 1001


def test_the_limits_are_the_environments_and_anything_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESX_MAX_MEGAPIXELS", "RESX_MAX_FILE_MIB"):
        monkeypatch.delenv(name, raising=False)
    assert read_limits() == ReadLimits(pixels=64_000_000, file_bytes=32 * 2**20)
    monkeypatch.setenv("RESX_MAX_MEGAPIXELS", "200")
    monkeypatch.setenv("RESX_MAX_FILE_MIB", "1")
    assert read_limits() == ReadLimits(pixels=200_000_000, file_bytes=2**20)
    set_limits(megapixels=None, file_mib=3)
    assert read_limits() == ReadLimits(pixels=200_000_000, file_bytes=3 * 2**20)
    for text in ("0", "-5", "1e3", "x", "10000000000", "²"):
        monkeypatch.setenv("RESX_MAX_MEGAPIXELS", text)
        with pytest.raises(UsageError, match=r"^RESX_MAX_MEGAPIXELS=.*: must be a whole number from 1 to 2000$"):
            read_limits()


def test_threads_together_hold_no_more_than_the_budget_and_a_larger_one_waits_to_be_alone() -> None:
    budget, lock, held, seen = Budget(lambda: 10), threading.Lock(), 0, []

    def use(amount: int) -> None:
        nonlocal held
        with budget.hold(amount):
            with lock:
                held += amount
                seen.append((held, amount))
            with lock:
                held -= amount

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, [4, 3, 25, 6, 1, 10] * 50))
    assert len(seen) == 300
    assert all(total <= 10 or total == amount for total, amount in seen)


def test_who_finds_too_little_left_waits_until_it_is_given_back() -> None:
    asked, order, budget = threading.Event(), list[str](), Budget(lambda: (asked.set(), 10)[1])

    def use() -> None:
        with budget.hold(6):
            order.append("held by the second")

    second = threading.Thread(target=use, daemon=True)
    budget.take(6)
    second.start()
    asked.wait()
    second.join(0.2)  # time enough to do what it must not
    order.append("given back by the first")
    budget.give_back(6)
    second.join()

    assert order == ["given back by the first", "held by the second"]
