"""`resx serve NAME`: what is missing is exported, what is there is served, what is neither is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from resx.cli.commands.serve import warn_of_replanning
from resx.cli.output import Output
from resx.cli.steps.served_names import find_served_name
from resx.errors import UsageError
from resx.repository.versions import Repository
from resx.serving.running.server_state import running_server
from resx.serving.supervisor.detaching import stop
from resx.training.config import TrainingConfig
from resx.training.runs.checkpoint import write_run
from resx.zoo.building import build_from_spec
from tests.support.command import Resx, refused
from tests.support.running_triton import wait_until
from tests.support.tiny_models import publish_tiny, tiny_spec

REPLANNED = "resx.serving.embedded.devices.find_replanned"
PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
WARNING = "warning: resnet20 has random weights: its answers mean nothing"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """The one that commands find by default; its server is ended."""
    repository = Repository(tmp_path / "model_repository")
    yield repository
    stop(repository)


def make_run(folder: Path, *, seed: int = 0) -> Path:
    """Write a run whose weights nobody trained."""
    spec = tiny_spec()
    write_run(folder, build_from_spec(spec, seed=seed), spec, TrainingConfig(data="digits"))
    return folder


@pytest.mark.triton
def test_a_variant_that_is_missing_is_exported_served_and_asked(
    repository: Repository, resx: Resx, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    publish_tiny(repository, "other")

    done = resx("serve", "resnet20", "--detach", *PORTS)

    assert done.code == 0, done.err
    assert "resnet20 was not in model_repository; exported as resnet20 version 1" in done.err
    assert done.out.endswith("Ask:  resx query resnet20 photo.jpg\nNext: resx bench resnet20\n")
    assert done.err.count(WARNING) == 1
    assert "other is not loaded" in done.out
    asked = resx("query", "resnet20", "photo.jpg", "--json")
    assert (asked.code, asked.json["in_process"]) == (0, False), asked.err
    assert resx("query", "resnet20", "photo.jpg", "--curl").code == 0, "programs can ask with a file"
    refused(resx("serve", "resnet32", "--detach", *PORTS), 2, "is served already")
    assert repository.names() == ["other", "resnet20"], "nothing is exported for a server that cannot start"

    assert resx("stop").code == 0
    again = resx("serve", "resnet20", "--detach", *PORTS)
    assert (again.code, repository.versions("resnet20")) == (0, [1]), again.err
    assert "exported" not in again.err
    assert again.err.count(WARNING) == 1


@pytest.mark.triton
def test_a_run_is_served_in_the_foreground_by_a_process_without_pytorch(repository: Repository, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "small")
    command = [sys.executable, "-m", "resx", "serve", "runs/small", *PORTS]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **piped) as serving:
        try:
            wait_until(lambda: running_server(repository) is not None or serving.poll() is not None, "ready", 300)
            assert serving.poll() is None
            maps = Path(f"/proc/{serving.pid}/maps").read_text()
            assert "libtorch" not in maps
        finally:
            os.kill(serving.pid, signal.SIGINT)
            out = serving.communicate(timeout=60)[0]
    assert "runs/small was not in model_repository; exported as small version 1" in out
    assert "Ask:  resx query small photo.jpg\n" in out


def test_a_run_is_there_if_its_weights_are(repository: Repository, resx: Resx, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "small")
    assert find_served_name(repository, str(run)) == ("small", str(run))
    assert resx("export", run).code == 0
    assert find_served_name(repository, str(run)) == ("small", "")
    assert find_served_name(repository, "small") == ("small", "")
    other = make_run(tmp_path / "other" / "small", seed=1)
    assert find_served_name(repository, str(other)) == ("small", str(other)), "another run of that name"


def test_a_model_of_the_repository_is_never_exported_again(repository: Repository) -> None:
    publish_tiny(repository, "resnet20")
    assert find_served_name(repository, "resnet20") == ("resnet20", "")


def test_what_cannot_be_served_is_one_line(repository: Repository, resx: Resx, tmp_path: Path) -> None:
    refused(
        resx("serve", "resnet5"),
        2,
        "resnet5: no model in model_repository, no variant",
        "did you mean resnet56, resnet50",
    )
    publish_tiny(repository, "digits", image_endpoint=True)
    (tmp_path / "folder").mkdir()
    (make_run(tmp_path / "begun") / "model.safetensors").unlink()
    make_run(tmp_path / "no name")
    (tmp_path / "m.onnx").write_bytes(b"")
    for words, reason in (
        (["begun"], "begun/model.safetensors: no such file; the run has not finished its first epoch"),
        (["no name"], "name 'no name': give 1 to 128 letters"),
        (["digit"], "did you mean digits"),
        (["digits_image"], "is the image endpoint of digits"),
        (["folder"], "folder: not a run (has no spec.json)"),
        (["runs/none"], "runs/none: not a run (is not there)"),
        (["m.onnx"], "m.onnx: export it first: `resx export m.onnx`"),
        (["torchvision:resnet18"], "export it first"),
        (["digits", "--load-none"], "digits and --load-none: give one of them"),
        (["--load", "resnet20"], "resnet20: no such model in model_repository"),
    ):
        refused(resx("serve", *words), 2, reason)
    refused(resx("serve", "--repository=none"), 2, "none: no such model repository")
    assert repository.names() == ["digits"]
    (repository.root / "empty").mkdir()
    (repository.root / "empty" / "config.pbtxt").write_text("")
    with pytest.raises(UsageError, match="no version"):
        find_served_name(repository, "empty")


@pytest.mark.parametrize(
    ("native", "server_dir", "says"),
    [(True, "", "serve without --native, or export with"), (False, "", ""), (None, "/opt/triton", "; export with")],
)
def test_a_server_that_plans_convolutions_again_on_a_gpu_is_told_of(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    native: bool | None,
    server_dir: str,
    says: str,
) -> None:
    monkeypatch.setattr(REPLANNED, lambda folders, _wish: [folder.name for folder in folders])
    out = Output(as_json=False, quiet=False)
    warn_of_replanning(out, repository, ["m"], "auto", asked=native, server_dir=server_dir)
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("warning: m: on the GPU, this server plans convolutions again") == bool(says)
    assert says in said
