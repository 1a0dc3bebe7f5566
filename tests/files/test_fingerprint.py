"""What a source was is stored as a few facts of each file, and another one is told by what differs."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest

from resx.errors import UsageError
from resx.files.fingerprint import MISSING, Difference, compare, facts_of, fingerprint_of_content, fingerprint_of_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(6):
        (root / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (root / f"{number % 2}" / f"{number}.png").write_bytes(bytes([number] * 10))
    return root


def differences(folder: Path, change: object, *, ignore_times: bool = False) -> Difference:
    """Return what the fingerprint says after `change` was done to the folder."""
    stored = folder.parent / "stored.gz"
    stored.write_bytes(fingerprint_of_files(folder, sorted(folder.rglob("*.png"))).packed)
    assert callable(change)
    change()
    return compare(stored, fingerprint_of_files(folder, sorted(folder.rglob("*.png"))), ignore_times=ignore_times)


def test_what_was_removed_added_and_changed_is_named(folder: Path) -> None:
    def change() -> None:
        (folder / "0" / "0.png").unlink()
        (folder / "1" / "new.png").write_bytes(b"new")
        (folder / "1" / "1.png").write_bytes(b"longer than it was")

    assert differences(folder, change).words == (
        "1 file removed (0/0.png), 1 file added (1/new.png), 1 file changed (1/1.png)"
    )


def test_other_contents_of_the_same_size_are_noticed_by_their_time(folder: Path) -> None:
    path = folder / "0" / "2.png"
    later = path.stat().st_mtime_ns + 1

    def change() -> None:
        path.write_bytes(b"0123456789")
        os.utime(path, ns=(later, later))

    found = differences(folder, change)

    assert found.words == "1 file with another modification time (0/2.png)"
    assert found.only_times
    assert not differences(folder, lambda: os.utime(path, ns=(later + 1, later + 1)), ignore_times=True)


def test_no_more_than_three_names_are_told(folder: Path) -> None:
    found = differences(folder, lambda: shutil.rmtree(folder / "0") or shutil.rmtree(folder / "1"))

    assert found.words == "6 files removed (0/0.png, 0/2.png, 0/4.png, ...)"


def test_a_folder_that_was_moved_or_copied_with_its_times_is_the_same(folder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored.gz"
    before = fingerprint_of_files(folder, sorted(folder.rglob("*.png")))
    stored.write_bytes(before.packed)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)

    again = fingerprint_of_files(copy, sorted(copy.rglob("*.png")))

    assert again == before
    assert not compare(stored, again)


def test_a_file_that_is_not_there_has_no_facts_and_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    assert facts_of(tmp_path / "none") == facts_of("with\0nul") == MISSING
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    odd.touch()
    stored = tmp_path / "stored.gz"
    stored.write_bytes(fingerprint_of_files(tmp_path, [odd]).packed)

    assert compare(stored, fingerprint_of_files(tmp_path, [])).words == r"1 file removed (\xff.png)"


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b cut", "cut", "other"])
def test_a_damaged_file_of_facts_is_one_line(tmp_path: Path, content: bytes | str) -> None:
    stored = tmp_path / "stored.gz"
    good = fingerprint_of_content("a", [b"1"])
    made = {"cut": good.packed[:-9], "other": gzip.compress(b'{"name": 1}\n')}
    stored.write_bytes(made[content] if isinstance(content, str) else content)

    with pytest.raises(UsageError, match=r"stored\.gz: cannot be read"):
        compare(stored, good)


def test_content_in_memory_is_the_same_whatever_the_times(tmp_path: Path) -> None:
    stored = tmp_path / "stored.gz"
    stored.write_bytes(fingerprint_of_content("digits", [b"12", b"3"]).packed)

    assert not compare(stored, fingerprint_of_content("digits", [b"123"]))
    assert compare(stored, fingerprint_of_content("digits", [b"124"])).words == "1 file changed (digits)"
