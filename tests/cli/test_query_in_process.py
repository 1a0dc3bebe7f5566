"""`resx query` where no server runs: the published version's file computes, with the server's answer."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.cli.steps import image_answers
from resx.repository.sharing.version_copies import copy_version
from resx.repository.versions import Repository
from resx.serving.client.address import DEFAULT_PORTS
from resx.serving.client.server_errors import ConnectionLost
from resx.serving.running.version_records import OURS, record_chosen
from tests.support.command import Resx, refused
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

NOTE = "No server runs; computed in this process."


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(autouse=True)
def nobody_at_the_usual_ports() -> None:
    """Skip where somebody's server has the ports that a query asks by default."""
    for port in DEFAULT_PORTS.values():
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"something listens at 127.0.0.1:{port}, a server's usual address")


@pytest.mark.triton
@pytest.mark.parametrize("name", ["tiny", "tiny_fp16", "tiny_float"])
def test_the_answer_is_the_servers(triton: RunningTriton, resx: Resx, photo: Path, name: str, tmp_path: Path) -> None:
    served = resx("query", name, photo, photo, "--repository", triton.repository.root, "--json").json
    copied = Repository(tmp_path / "model_repository")
    copy_version(triton.repository, copied, name, 1)

    done = resx("query", name, photo, photo, "--json")

    assert (done.code, done.err.count(NOTE)) == (0, 1), done.err
    assert (served["in_process"], served["url"]) == (False, triton.url())
    found = done.json
    assert (found["in_process"], found["url"]) == (True, None)
    assert found.keys() == served.keys()
    for one, other in zip(found["images"], served["images"], strict=True):
        assert [guess["label"] for guess in one["top"]] == [guess["label"] for guess in other["top"]]
        assert [guess["probability"] for guess in one["top"]] == pytest.approx(
            [guess["probability"] for guess in other["top"]], rel=1e-3
        )


def test_the_version_is_the_one_that_a_server_would_start_with(tmp_path: Path, resx: Resx, photo: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    for seed in (0, 1):
        publish_tiny(repository, "m", seed=seed)

    def top(*options: str) -> object:
        done = resx("query", "m", photo, "--json", "-q", *options)
        assert (done.code, done.err) == (0, "")
        return done.json["images"]

    first, second = top("--version=1"), top("--version=2")
    assert first != second
    assert top() == second
    record_chosen(repository, OURS, "m", [1])
    assert top() == first
    refused(resx("query", "m", photo, "--version=3"), 2, "m: no version 3")


def test_a_server_that_gets_ready_between_two_looks_is_not_passed_over(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    ready: list[bool] = []
    monkeypatch.setattr(image_answers, "is_starting", lambda _repository: bool(ready.append(True)))
    monkeypatch.setattr(image_answers, "running_server", lambda _repository: bool(ready))
    asked = image_answers.AskedImages(model="tiny", images=[photo], top=1, version=None)
    with pytest.raises(ConnectionLost):
        image_answers.compute_here(repository.root, asked, ConnectionLost("nobody"))


def test_who_names_a_server_wants_its_answer(tmp_path: Path, resx: Resx, photo: Path) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "m")
    for options in (["--url=127.0.0.1:1"], ["--protocol=http"], ["--header=X-A: b"], ["--raw"], ["--curl"]):
        refused(resx("query", "m", photo, *options), 4, "no server answers")


def test_a_model_that_is_nowhere_is_told_with_the_nearest_name(tmp_path: Path, resx: Resx, photo: Path) -> None:
    refused(resx("query", "m", photo), 4, "no server answers", "model_repository has no model m to compute here")
    publish_tiny(Repository(tmp_path / "model_repository"), "digits")
    refused(resx("query", "digit", photo), 4, "did you mean digits?")
    refused(resx("query", "../m", photo), 4, "no model ../m")
    refused(resx("query", "digits", tmp_path / "none.png"), 2, "none.png: no such file")


def test_random_weights_are_told_here_too(tmp_path: Path, resx: Resx, photo: Path) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "m")
    done = resx("query", "m", photo)
    assert done.code == 0
    assert "warning: m has random weights: its answers mean nothing" in done.err
    assert "class-" in done.out
