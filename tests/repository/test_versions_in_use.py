"""`resx gc` spares what others use: marks in the repository, and locks of running servers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.files import staging
from resx.repository import versions_in_use
from resx.repository.versions import Repository
from resx.serving.deployment.garbage_collection import Kept, collect
from resx.serving.running import version_records


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Four versions of `tiny`, and a state folder of somebody."""
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "state"))
    repository = Repository(tmp_path / "model_repository")
    for version in range(1, 5):
        folder = repository.root / "tiny" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
    return repository


def gc(repository: Repository) -> tuple[list[int], list[Kept]]:
    """Delete all but the newest version; return what is left, and what was said to be in use elsewhere."""
    kept: list[Kept] = []
    collect(repository, ["tiny"], 1, clients=[], dry_run=False, on_kept=kept.append)
    return repository.versions("tiny"), kept


USES: dict[str, Callable[[Repository], None]] = {
    "served": lambda repository: version_records.record_deployed(repository, "tiny", [2]),
    "chosen": lambda repository: version_records.record_chosen(repository, version_records.OURS, "tiny", [2]),
    "on another server": lambda repository: version_records.record_chosen(repository, "triton:8001", "tiny", [2]),
    "to go back to": lambda repository: version_records.record_previous(repository, version_records.OURS, "tiny", 2),
}


@pytest.mark.parametrize("use", USES)
def test_what_one_state_folder_uses_is_spared_under_another_until_its_mark_is_deleted(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    USES[use](repository)
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "other"))
    left, (kept,) = gc(repository)
    assert left == [2, 4]
    assert (kept.version, kept.mark) == (2, next(repository.root.glob(".in-use.*")))
    assert f"state folder {tmp_path / 'state'}" in kept.reason
    assert f"delete {kept.mark}" in kept.reason
    assert kept.mark is not None
    kept.mark.unlink()
    assert gc(repository) == ([4], [])


def test_two_state_folders_mark_each_for_itself(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_records.record_chosen(repository, version_records.OURS, "tiny", [2])
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "other"))
    version_records.record_chosen(repository, version_records.OURS, "tiny", [3])
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "third"))
    left, kept = gc(repository)
    assert (left, [one.version for one in kept]) == ([2, 3, 4], [2, 3])


def test_what_is_undeployed_is_marked_no_more(repository: Repository) -> None:
    version_records.record_deployed(repository, "tiny", [2])
    version_records.record_chosen(repository, version_records.OURS, "tiny", [2])
    assert list(repository.root.glob(".in-use.*"))
    version_records.record_deployed(repository, "tiny", [])
    version_records.record_chosen(repository, version_records.OURS, "tiny", [])
    assert not list(repository.root.glob(".in-use.*"))
    assert version_records.read_chosen(repository, "tiny") == {version_records.OURS: ()}, (
        "so the next server does not start it"
    )


def test_what_a_running_server_holds_is_spared_though_nothing_is_marked(repository: Repository) -> None:
    """As where it cannot write the repository."""
    hold = versions_in_use.Hold(repository.root)
    hold.change({"tiny": (1, 2), "gone": (7,)})
    hold.change({"tiny": (2,)})
    left, (kept,) = gc(repository)
    assert (left, kept.version, kept.mark) == ([2, 4], 2, None)
    assert "loaded on a running server" in kept.reason
    hold.change({})
    assert gc(repository) == ([4], [])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"versions": [2]}', '{"host": "h", "state_folder": "s", "versions": "x"}']
)
def test_a_mark_that_cannot_be_read_spares_everything_and_is_named(repository: Repository, content: str) -> None:
    mark = repository.root / ".in-use.0123456789ab.tiny"
    mark.write_text(content)
    left, kept = gc(repository)
    assert left == [1, 2, 3, 4]
    assert {one.mark for one in kept} == {mark}
    assert "cannot be read" in kept[0].reason


def test_a_mark_of_a_newer_version_is_understood(repository: Repository) -> None:
    mark = repository.root / ".in-use.0123456789ab.tiny"
    mark.write_text('{"host": "h", "state_folder": "s", "versions": [3], "since": 1}')
    assert gc(repository)[0] == [3, 4]


def test_marks_are_of_one_model_and_no_models_themselves(repository: Repository) -> None:
    (repository.root / "tiny" / "config.pbtxt").touch()
    other = repository.root / ".in-use.0123456789ab.tiny.x"
    other.write_text('{"host": "h", "state_folder": "s", "versions": [1, 2, 3]}')
    assert repository.names() == ["tiny"]
    assert all(path.is_file() for path in repository.root.glob(".*")), "Triton takes a folder for a model"
    assert gc(repository) == ([4], [])


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_repository_that_cannot_be_written_is_served_without_a_mark(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_arguments: object, **_options: object) -> tuple[int, Path]:
        raise OSError(number, "no")

    monkeypatch.setattr(staging, "_stage", refuse)
    versions_in_use.write_mark(repository.root, "tiny", [2], owner_id="0123456789ab", state_folder=tmp_path)
    assert not list(repository.root.glob(".in-use.*"))
