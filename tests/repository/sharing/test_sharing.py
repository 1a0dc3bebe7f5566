"""What was pushed to a folder is pulled whole; what was changed is refused; nothing is sent unasked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors as hub

from resx.errors import MissingCapability, ParityError, UsageError
from resx.repository.sharing.bundle import MANIFEST
from resx.repository.sharing.places import FolderPlace, HubPlace, parse_place
from resx.repository.sharing.pulling import Pulled, pull
from resx.repository.sharing.pushing import Pushed, push
from resx.repository.versions import Repository
from resx.training.config import TrainingConfig
from resx.training.runs.checkpoint import write_run
from resx.zoo.building import build_from_spec
from tests.support.tiny_models import publish_tiny, tiny_spec

VERSION_FILES = ["README.md", "card.json", "config.pbtxt", "labels.txt", "model.onnx"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    found = Repository(tmp_path_factory.mktemp("sharing") / "models")
    publish_tiny(found, "tiny")
    return found


def _push(text: str, place: FolderPlace | HubPlace, repository: Repository, *, send: bool = True) -> Pushed:
    return push(text, place, repository, named_place=str(place), send=send)


def _pull(folder: Path, into: Path, **options: Any) -> Pulled:
    return pull(FolderPlace(path=folder), Repository(into / "models"), runs=into / "runs", **options)


@pytest.fixture
def shared(repository: Repository, tmp_path: Path) -> Path:
    _push("tiny", FolderPlace(path=tmp_path / "shared"), repository)
    return tmp_path / "shared"


def test_nothing_is_sent_without_being_asked(repository: Repository, tmp_path: Path) -> None:
    found = _push("tiny:1", FolderPlace(path=tmp_path / "shared"), repository, send=False)
    assert not found.sent
    assert [file.name for file in found.bundle.files] == VERSION_FILES
    assert not list(tmp_path.iterdir())


def test_a_version_comes_back_as_it_went(repository: Repository, shared: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in shared.iterdir()) == VERSION_FILES
    first = _pull(shared, tmp_path, name="theirs")
    again = _pull(shared, tmp_path, name="theirs")
    assert (first.name, first.version) == ("theirs", 1)
    assert again == first, "the same bytes are no new version"
    card = Repository(tmp_path / "models").card("theirs")
    assert card.files == repository.card("tiny").files
    assert (first.folder / "model.onnx").read_bytes() == (repository.version_folder("tiny") / "model.onnx").read_bytes()


def test_the_servers_configuration_is_not_taken_along(shared: Path, tmp_path: Path) -> None:
    (shared / "config.pbtxt").write_text('backend: "python"')
    (shared / "model.py").write_text("raise SystemExit")
    _pull(shared, tmp_path)
    names = {path.name for path in (tmp_path / "models" / "tiny").rglob("*") if path.is_file()}
    assert names == {"config.pbtxt", "labels.txt", "model.onnx", "card.json", "README.md"}
    assert 'backend: "python"' not in (tmp_path / "models" / "tiny" / "config.pbtxt").read_text()


def _change_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def _delist(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["files"] = {}
    (folder / "card.json").write_text(json.dumps(card))


def _climb(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["files"] |= {"../x": "0" * 64}
    (folder / "card.json").write_text(json.dumps(card))


def _link(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_change_byte, ParityError, "model.onnx: sha256"),
        (_delist, UsageError, "does not list model.onnx"),
        (_climb, UsageError, "card.json"),
        (_link, UsageError, "is a link"),
        (lambda folder: (folder / "card.json").write_text("{"), UsageError, "card.json"),
        (lambda folder: (folder / "card.json").unlink(), UsageError, "has neither card.json nor resx.json"),
    ],
)
def test_what_was_changed_is_refused_and_nothing_is_left(
    shared: Path, tmp_path: Path, spoil: Any, error: type[Exception], words: str
) -> None:
    spoil(shared)
    with pytest.raises(error) as refused:
        _pull(shared, tmp_path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [shared]


def test_a_version_that_was_changed_is_not_sent(tmp_path: Path) -> None:
    found = Repository(tmp_path / "models")
    _, version = publish_tiny(found, "tiny")
    _change_byte(version.folder)
    with pytest.raises(ParityError, match=r"model\.onnx: sha256"):
        _push("tiny", FolderPlace(path=tmp_path / "shared"), found)
    assert not (tmp_path / "shared").exists()


def test_a_folder_with_other_files_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="has other files"):
        _push("tiny", FolderPlace(path=tmp_path), repository)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    spec = tiny_spec()
    folder = tmp_path / "trained"
    write_run(folder, build_from_spec(spec, seed=0), spec, TrainingConfig(data="digits", epochs=1))
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "accuracy": 0.5}) + "\n")
    return folder


def test_a_run_comes_back_as_it_went(run: Path, repository: Repository, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    found = _push(str(run), FolderPlace(path=shared), repository)
    assert found.bundle.kind == "run"
    assert "50.00% of the held-out images" in (shared / "README.md").read_text()
    pulled = _pull(shared, tmp_path)
    assert (pulled.kind, pulled.name, pulled.folder) == ("run", "trained", tmp_path / "runs" / "trained")
    for name in ("model.safetensors", "spec.json", "training.json", "metrics.jsonl"):
        assert (pulled.folder / name).read_bytes() == (run / name).read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        _pull(shared, tmp_path)
    (shared / "spec.json").write_text((shared / "spec.json").read_text() + " ")
    with pytest.raises(ParityError, match=r"spec\.json: sha256"):
        _pull(shared, tmp_path, name="other")
    manifest = json.loads((shared / MANIFEST).read_text())
    manifest["files"]["../../x"] = "0" * 64
    (shared / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="does not list a run's files"):
        _pull(shared, tmp_path, name="other")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["trained"]


def test_a_shrunken_run_that_nobody_trained_is_shared_without_metrics(
    run: Path, repository: Repository, tmp_path: Path
) -> None:
    (run / "metrics.jsonl").unlink()
    shared = tmp_path / "two words"
    found = push(str(run), FolderPlace(path=shared), repository, named_place=str(shared), send=True)
    assert "metrics.jsonl" not in [file.name for file in found.bundle.files]
    assert f"resx pull '{shared}'" in (shared / "README.md").read_text()
    pulled = _pull(shared, tmp_path)
    assert sorted(path.name for path in pulled.folder.iterdir()) == sorted(pulled.files)
    assert set(pulled.files) == {"model.safetensors", "spec.json", "training.json"}


def test_metrics_that_training_did_not_write_are_one_line(run: Path, repository: Repository, tmp_path: Path) -> None:
    (run / "metrics.jsonl").write_text("[1\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl: has a line that resx did not write"):
        _push(str(run), FolderPlace(path=tmp_path / "shared"), repository)
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf:a/b", HubPlace(repository="a/b")),
        ("hf:a/b@v1", HubPlace(repository="a/b", revision="v1")),
        ("hf:./a", FolderPlace(path=Path("a"))),
        ("dir:a", FolderPlace(path=Path("a"))),
        ("a/b", FolderPlace(path=Path("a/b"))),
    ],
)
def test_places_are_read(text: str, place: FolderPlace | HubPlace) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "hf:", "hf:a", "hf:a/b/c", "dir:", "https://huggingface.co/a/b"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"give hf:ORG/NAME"):
        parse_place(text)


@dataclass
class FakeHub:
    """What huggingface_hub's HfApi does, with a folder."""

    folder: Path
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        def ask(**options: Any) -> Any:
            self.asked.append((name, options))
            if self.error is not None:
                raise self.error
            if name == "repo_info":
                return SimpleNamespace(
                    siblings=[SimpleNamespace(rfilename=path.name) for path in self.folder.iterdir()]
                )
            if name == "hf_hub_download":
                Path(options["local_dir"], options["filename"]).write_bytes(
                    (self.folder / options["filename"]).read_bytes()
                )
            if name == "upload_folder":
                for file in options["allow_patterns"]:
                    (self.folder / file).write_bytes(Path(options["folder_path"], file).read_bytes())
            return None

        return ask


def test_the_hub_gets_and_gives_the_same(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    api = FakeHub(folder=tmp_path / "hub")
    place = HubPlace(repository="me/tiny", api=api)
    found = push("tiny", place, repository, named_place="hf:me/tiny", send=True, private=True)
    assert found.url == "https://huggingface.co/me/tiny"
    assert [name for name, _ in api.asked] == ["create_repo", "upload_folder"]
    assert api.asked[0][1] == {"repo_id": "me/tiny", "exist_ok": True, "private": True}
    assert "resx pull hf:me/tiny" in (tmp_path / "hub" / "README.md").read_text()
    pulled = pull(place, Repository(tmp_path / "models"))
    assert (pulled.name, pulled.version) == ("tiny", 1)


def _refusal(kind: type[Exception], status: int) -> Exception:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("no", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (_refusal(hub.GatedRepoError, 403), UsageError, "is gated; accept its terms there"),
        (_refusal(hub.RepositoryNotFoundError, 404), UsageError, "does not exist or is private"),
        (_refusal(hub.RevisionNotFoundError, 404), UsageError, "has no revision 'v1'"),
        (_refusal(hub.HfHubHTTPError, 401), UsageError, "refuses this token (401)"),
        (
            ConnectionError("no route to host"),
            MissingCapability,
            "cannot be reached (no route to host); run `hf d",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_line(error: Exception, kind: type[Exception], words: str, tmp_path: Path) -> None:
    place = HubPlace(repository="a/b", revision="v1", api=FakeHub(folder=tmp_path, error=error))
    with pytest.raises(kind) as refused:
        pull(place, Repository(tmp_path / "models"))
    assert words in str(refused.value)
    assert str(refused.value).startswith("hf:a/b@v1: ")
    assert "\n" not in str(refused.value)


def test_without_a_token_nothing_is_tried(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.utils._auth.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(MissingCapability, match="no Hub token was found; run `hf auth login`"):
        _push("tiny", HubPlace(repository="a/b"), repository)
    with pytest.raises(UsageError, match="a push goes to the main branch; remove @v1"):
        _push("tiny", HubPlace(repository="a/b", revision="v1"), repository)
