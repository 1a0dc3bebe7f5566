import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resx.card.card import Card
from resx.errors import ParityError, UsageError
from resx.repository import image_endpoint
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Published, Repository
from tests.support.cards import card


def publish(repository: Repository, of: Card, content: str = "model") -> Published:
    from resx.card.card import write_card

    with repository.stage() as staged:
        (staged / "model.onnx").write_text(content)
        (staged / "card.json").write_text(write_card(of))
        return repository.publish(staged, of, ServingOptions())


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_versions_count_up_and_share_one_configuration(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")

    assert publish(repository, card()).version == 1
    assert publish(repository, card()).version == 2

    assert repository.names() == ["tiny"]
    assert repository.versions("tiny") == [1, 2]
    assert tree(repository.root) == [
        "tiny",
        "tiny/1",
        "tiny/1/README.md",
        "tiny/1/card.json",
        "tiny/1/model.onnx",
        "tiny/2",
        "tiny/2/README.md",
        "tiny/2/card.json",
        "tiny/2/model.onnx",
        "tiny/config.pbtxt",
        "tiny/labels.txt",
    ]
    assert repository.card("tiny").name == "tiny"


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_triton_may_read_what_was_published_as_another_user_unless_the_umask_forbids_it(
    tmp_path: Path, umask: int, folder: int, file: int
) -> None:
    repository = Repository(tmp_path / "model_repository")
    before = os.umask(umask)
    try:
        publish(repository, card())
        publish(repository, card())
        image_endpoint.write_endpoints(repository.root, card(), tmp_path)
    finally:
        os.umask(before)
    found = {path: path.stat().st_mode & 0o777 for path in repository.root.rglob("*")}
    assert len(found) > 15
    assert found == {path: folder if path.is_dir() else file for path in found}


def test_an_error_while_staging_leaves_nothing(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, card())
    before = tree(tmp_path)

    with pytest.raises(ParityError), repository.stage() as staged:  # noqa: PT012
        (staged / "model.onnx").write_text("wrong")
        raise ParityError("it computes something else")

    assert tree(tmp_path) == before


def test_what_a_killed_export_left_is_gone_after_the_next_one(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, card())
    code = (
        "import os, pathlib; from resx.repository.versions import Repository\n"
        f"with Repository(pathlib.Path({str(repository.root)!r})).stage() as staged:\n"
        "    (staged / 'model.onnx').write_text('half'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert repository.versions("tiny") == [1]
    assert "half" in [path.read_text() for path in tmp_path.rglob("model.onnx")]

    publish(repository, card())

    assert repository.versions("tiny") == [1, 2]
    assert "half" not in [path.read_text() for path in tmp_path.rglob("model.onnx")]


def test_another_interface_needs_another_name(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, card("uint8"))
    with pytest.raises(UsageError, match="its versions have input image .* choose another --name"):
        publish(repository, card("float32"))
    assert repository.versions("tiny") == [1]


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    (tmp_path / "theirs" / "1").mkdir(parents=True)
    with pytest.raises(UsageError, match="was not made by `resx export`"):
        repository.require_publishable("theirs")


def test_two_exports_at_once_give_two_versions(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, card())
    threads = [threading.Thread(target=publish, args=(repository, card(), f"model {n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repository.versions("tiny") == list(range(1, 10))


def test_an_unknown_model_offers_the_nearest_and_an_unknown_version_those_there_are(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    publish(repository, card())
    with pytest.raises(UsageError, match="did you mean tiny"):
        repository.version_folder("tinny")
    with pytest.raises(UsageError, match="no version 7; there is 1"):
        repository.version_folder("tiny", 7)


def test_staging_happens_in_the_repository_if_the_folder_around_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path / "model_repository")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert publish(repository, card()).version == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_repository"]
