"""Copies are found by all of their bytes, whatever they have in common."""

from pathlib import Path

import pytest

from resx.data.duplicate_images import Copies, find_copies


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """`same` and `twin` are equal; `begins` and `ends` differ from them in their first and their last byte."""
    body = bytes(range(256)) * 64
    contents = {"same": body, "twin": body, "begins": b"x" + body[1:], "ends": body[:-1] + b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


def test_files_that_differ_in_one_byte_are_no_copies(files: dict[str, Path]) -> None:
    train = [(files["same"], 0), (files["begins"], 0), (files["ends"], 0)]

    found = find_copies(train, [(files["twin"], 0)])

    assert found == Copies(held_out_too=(files["same"],), conflicting=())


def test_copies_in_two_classes_conflict(files: dict[str, Path]) -> None:
    train = [(files["same"], 0), (files["twin"], 1), (files["begins"], 1)]

    assert find_copies(train, []) == Copies(held_out_too=(), conflicting=(files["same"], files["twin"]))
