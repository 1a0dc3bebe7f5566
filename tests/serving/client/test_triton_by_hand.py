"""Commands against a Triton that resx did not start: what it lacks, and what its control mode does not allow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from resx.repository.versions import Repository
from resx.serving.embedded.server_ports import Ports
from tests.support.command import Finished, refused
from tests.support.onnx_files import channel_means, configure
from tests.support.tiny_models import publish_tiny
from tests.support.triton_by_hand import triton_by_hand

Resx = Callable[..., Finished]
FORBIDDEN = ("its control mode does not allow", "--model-control-mode=explicit")


@dataclass(frozen=True, kw_only=True, slots=True)
class ByHand:
    """A server over a repository of its own, and ours, which has a model that it lacks."""

    ports: Ports
    mine: Repository

    def addresses(self) -> list[str]:
        return [f"grpc://127.0.0.1:{self.ports.grpc}", f"http://127.0.0.1:{self.ports.http}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `mine`, which has `lacking` and `damaged`, and `theirs`, which has `damaged` alone."""
    folder = tmp_path_factory.mktemp("by_hand")
    publish_tiny(Repository(folder / "mine"), "lacking")
    channel_means(folder / "mine/damaged/1/model.onnx", sides=(8, 8))
    configure(folder / "mine/damaged", "FP32", [3, 8, 8])
    shutil.copytree(folder / "mine" / "damaged", folder / "theirs" / "damaged")
    (folder / "theirs" / "damaged" / "1" / "model.onnx").write_bytes(b"no model")
    return folder


@pytest.fixture(scope="module", params=["none", "poll"])
def deaf(request: pytest.FixtureRequest, folder: Path) -> Iterator[ByHand]:
    """A server that loads nothing when it is asked."""
    with triton_by_hand(folder / "theirs", request.param, folder / f"{request.param}.log") as ports:
        yield ByHand(ports=ports, mine=Repository(folder / "mine"))


@pytest.fixture(scope="module")
def explicit(folder: Path) -> Iterator[ByHand]:
    with triton_by_hand(folder / "theirs", "explicit", folder / "explicit.log") as ports:
        yield ByHand(ports=ports, mine=Repository(folder / "mine"))


@pytest.mark.triton
def test_a_server_whose_mode_forbids_loading_is_named_with_the_remedy(deaf: ByHand, resx: Resx) -> None:
    for name, url in zip(("lacking", "damaged"), deaf.addresses(), strict=True):
        refused(resx("deploy", name, "--url", url, "--repository", deaf.mine.root, "-q"), 4, url, *FORBIDDEN)


@pytest.mark.triton
def test_a_server_that_lacks_a_model_is_said_to(explicit: ByHand, resx: Resx) -> None:
    for url, manner in zip(explicit.addresses(), ("-q", "--dry-run"), strict=True):
        done = resx("deploy", "lacking", "--url", url, "--repository", explicit.mine.root, manner)
        refused(done, 2, f"{url}: has no lacking in its model repository", "copy ")
    assert (explicit.mine.root / "lacking" / "1").is_dir()


@pytest.mark.triton
def test_a_model_that_did_not_load_is_told_with_the_servers_reason(deaf: ByHand, resx: Resx, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    commands = (("query", "damaged", "image.png"), ("bench", "damaged"))
    for command, url in zip(commands, deaf.addresses(), strict=True):
        for _ in range(20):  # a server that polls loads what it could not load again, every 15 s
            done = resx(*command, "--url", url, "-q")
            if "still loading" not in done.err:
                break
        refused(done, 2, "damaged cannot answer: version 1 is UNAVAILABLE", "Protobuf parsing failed")


@pytest.mark.triton
def test_what_cannot_be_asked_is_no_failed_verification(explicit: ByHand, resx: Resx) -> None:
    done = resx("verify", "lacking", "--served", explicit.addresses()[0], "--repository", explicit.mine.root, "-q")
    refused(done, 2, "'lacking' is not found", "resx deploy")


@pytest.mark.parametrize("command", ["deploy", "rollback", "verify"])
def test_a_model_without_a_version_is_not_taken_for_a_misspelt_name(resx: Resx, tmp_path: Path, command: str) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    shutil.rmtree(tmp_path / "model_repository" / "tiny" / "1")
    done = resx(command, "tiny", "-q")
    refused(done, 2, "tiny: has no version", "model_repository/tiny/1")
    assert "did you mean" not in done.err


def test_a_folder_without_configuration_and_version_has_none_either(resx: Resx, tmp_path: Path) -> None:
    (tmp_path / "model_repository" / "bare").mkdir(parents=True)
    refused(resx("deploy", "bare", "-q"), 2, "bare: has no version")
