"""A folder that is gone or cannot be read is one model's trouble: it is set aside with the reason, others go on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resx.errors import UsageError
from resx.repository.model_folders import model_folders, unlistable, versions_in, why_unreadable
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.garbage_collection import Kept, collect
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.running_triton import FREE, current, wait_until
from tests.support.tiny_models import publish_tiny

Harm = Callable[[Path], None]


def replace_by_link(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to("nothing-there")


def replace_by_loop(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(path.name)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM: dict[str, tuple[Harm, str]] = {
    "linked": (replace_by_link, "m: {root}/m: a broken link"),
    "looped": (replace_by_loop, "m: {root}/m: too many levels of symbolic links"),
    "config": (lambda model: replace_by_link(model / "config.pbtxt"), "m/config.pbtxt: a broken link"),
    "config_folder": (lambda model: replace_by_folder(model / "config.pbtxt"), "m/config.pbtxt: not a regular file"),
    "config_pipe": (lambda model: replace_by_pipe(model / "config.pbtxt"), "m/config.pbtxt: not a regular file"),
    "version": (lambda model: replace_by_link(model / "1"), "m/1: a broken link"),
    "version_loop": (lambda model: replace_by_loop(model / "1"), "m/1: too many levels"),
    "file": (lambda model: replace_by_link(model / "1/model.onnx"), "m/1/model.onnx: a broken link"),
    "file_pipe": (lambda model: replace_by_pipe(model / "1/model.onnx"), "m/1/model.onnx: not a regular file"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("published") / "model_repository")
    publish_tiny(repository, "m")
    return repository


@pytest.fixture
def repository(tmp_path: Path, published: Repository) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    shutil.copytree(published.root, repository.root)
    yield repository
    if running_server(repository):
        detaching.stop(repository)


def copy(repository: Repository, name: str) -> Path:
    folder = repository.root / name
    shutil.copytree(repository.root / "m", folder)
    for file in ("config.pbtxt", "1/card.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace('"m"', f'"{name}"', 1))
    return folder


@pytest.mark.parametrize("kind", HARM)
def test_what_cannot_be_read_is_named_with_the_reason_and_hides_no_other_model(
    repository: Repository, kind: str
) -> None:
    copy(repository, "other")
    harm, reason = HARM[kind]
    harm(repository.root / "m")
    assert repository.names() == ["m", "other"]
    assert repository.versions("other") == [1]
    assert repository.card("other").name == "other"
    with pytest.raises(UsageError) as error:
        repository.require_readable("m", None)
    assert reason.format(root=repository.root) in str(error.value)
    assert "repair it, or move the model's folder elsewhere" in str(error.value)
    if not repository.versions("m"):
        with pytest.raises(UsageError, match=str(error.value).partition(";")[0][:20]):
            repository.version_folder("m")


def test_a_damaged_version_keeps_no_other_one_from_being_resumed(repository: Repository) -> None:
    shutil.copytree(repository.root / "m/1", repository.root / "m/2")
    replace_by_link(repository.root / "m/1/model.onnx")
    assert why_unreadable(repository.root / "m", [2]) == ""
    assert "m/1/model.onnx" in why_unreadable(repository.root / "m", [1])
    assert "m/1/model.onnx" in why_unreadable(repository.root / "m", None)
    assert '"2"' in version_pinning.config_json(repository, "m", [2])
    with pytest.raises(UsageError, match="a broken link"):
        version_pinning.config_json(repository, "m", [1])


def test_gc_keeps_what_it_cannot_read_and_deletes_the_rest(repository: Repository) -> None:
    other = copy(repository, "other")
    for model in (repository.root / "m", other):
        shutil.copytree(model / "1", model / "2")
    replace_by_link(copy(repository, "broken"))
    replace_by_link(repository.root / "m/1/model.onnx")
    kept: list[Kept] = []
    deleted = collect(repository, [], 1, clients=[], dry_run=False, on_kept=kept.append)
    assert [(old.name, old.version) for old in deleted] == [("other", 1)]
    assert [(one.name, one.version) for one in kept] == [("m", 1)]
    assert "a broken link" in kept[0].reason


def test_files_and_hidden_names_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").symlink_to("nothing-there")
    assert model_folders(tmp_path) == []
    assert unlistable(tmp_path) == [".hidden"]
    assert model_folders(tmp_path / "missing") == []
    assert versions_in(tmp_path / "missing") == []


def test_tritons_path_leads_to_the_repository_or_past_what_it_cannot_list(
    repository: Repository, tmp_path: Path
) -> None:
    state, link = tmp_path / "state", tmp_path / "state/repository"
    state.mkdir()
    version_pinning.lead_to_listable(repository, state)
    assert link.readlink() == repository.root.resolve()
    (repository.root / "dangling").symlink_to("nothing-there")
    version_pinning.lead_to_listable(repository, state)
    first = link.readlink()
    assert {path.name for path in link.iterdir()} == {"m"}
    version_pinning.lead_to_listable(repository, state)
    assert link.readlink() == first
    copy(repository, "later")
    version_pinning.lead_to_listable(repository, state)
    assert {path.name for path in link.iterdir()} == {"m", "later"}
    (repository.root / "dangling").unlink()
    version_pinning.lead_to_listable(repository, state)
    assert link.readlink() == repository.root.resolve()


@pytest.mark.triton
def test_a_server_starts_changes_and_recovers_beside_models_that_cannot_be_read(repository: Repository) -> None:
    copy(repository, "gone")
    for kind, (harm, _) in HARM.items():
        harm(copy(repository, kind))
    state = detaching.serve_detached(repository, FREE)
    assert state.set_aside.keys() == HARM.keys()
    assert "config.pbtxt: a broken link" in state.set_aside["config"]
    with TritonClient(state.address("grpc")) as client:
        assert client.model_versions() == {"gone": [1], "m": [1]}
        assert deploy(client, repository, "m").version == 1
        with pytest.raises(UsageError, match="too many levels of symbolic links"):
            deploy(client, repository, "looped")
    shutil.rmtree(repository.root / "gone")
    os.kill(state.server_pid, signal.SIGKILL)
    wait_until(lambda: "gone" in current(repository).set_aside, "what is gone is set aside")
    assert "no such folder" in current(repository).set_aside["gone"]
    with TritonClient(current(repository).address("grpc")) as client:
        wait_until(lambda: client.model_versions() == {"m": [1]}, "the rest is served")
        (repository.root / "new").symlink_to("nothing-there")
        copy(repository, "fresh")
        listed = Path(state.log).parent / "repository"
        wait_until(lambda: (listed / "fresh").is_dir() and not (listed / "new").is_symlink(), "the link is left out")
        assert deploy(client, repository, "fresh").version == 1


@pytest.mark.triton
def test_a_supervisor_that_was_killed_says_what_became_of_a_model_that_is_gone(repository: Repository) -> None:
    copy(repository, "gone")
    state = detaching.serve_detached(repository, FREE)
    os.kill(state.pid, signal.SIGKILL)
    os.waitpid(state.pid, 0)
    (repository.root / "gone").rename(repository.root.parent / "moved")
    state = detaching.serve_detached(repository, FREE)
    assert "no such folder" in state.set_aside["gone"]
    with TritonClient(state.address("grpc")) as client:
        assert client.model_versions() == {"m": [1]}
