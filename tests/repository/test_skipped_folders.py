"""What lies in a repository and is no model is skipped and named, and stops nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resx.repository.skipped_folders import skipped_entries, skipped_lines
from resx.repository.versions import Repository
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    shutil.copytree(repository.root / "tiny", repository.root / "na me")
    shutil.copytree(repository.root / "tiny", repository.root / "$(touch x)")
    (repository.root / ".ipynb_checkpoints").mkdir()
    shutil.copy(repository.root / "tiny/config.pbtxt", repository.root / ".ipynb_checkpoints")
    (repository.root / "lost+found").mkdir()
    (repository.root / "README.md").write_text("")
    (repository.root / ".in-use.0a.tiny").write_text("{}")
    yield repository
    if running_server(repository):
        detaching.stop(repository)


def test_what_is_no_model_is_told_with_the_reason(repository: Repository) -> None:
    assert repository.names() == ["tiny"]
    assert skipped_lines(skipped_entries(repository)) == [
        "skipped, rename it: a model's name has only letters, digits, '.', '_' and '-': '$(touch x)', 'na me'",
        "skipped, not a model: '.ipynb_checkpoints', 'README.md', 'lost+found'",
    ]


def test_many_are_counted(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"file{number:02}").write_text("")
    (line,) = skipped_lines(skipped_entries(Repository(tmp_path)))
    assert line.endswith("'file09' and 20 more")


@pytest.mark.triton
def test_serve_status_and_gc_go_on_and_advise_nothing_impossible(repository: Repository, resx: Resx) -> None:
    served = resx("serve", "--detach", "--http-port=0", "--grpc-port=0", "--metrics-port=0")
    assert served.code == 0, served.err
    assert "resx deploy na me" not in served.out
    for done in (served, resx("status"), resx("gc", "--dry-run")):
        assert done.code == 0, done.err
        assert "'na me'" in done.out
        assert "'lost+found'" in done.out
    assert set(resx("gc", "--json").json["skipped"]) == {
        "na me",
        "$(touch x)",
        ".ipynb_checkpoints",
        "lost+found",
        "README.md",
    }
