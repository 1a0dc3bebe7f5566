"""Code that a card names runs only where the user named its module too, and takes nothing from the working folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from resx.card.card import FILE_NAME, named_source, read_card
from resx.errors import UsageError
from resx.export.sources.python_networks import load_foreign
from resx.repository.versions import Repository
from resx.serving.deployment.verification import verify_version
from resx.zoo.catalog import module_of
from resx.zoo.weights.pretrained import read_weights
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

CODE = """\
open("RAN", "w").close()
import torch
import layers_of_mine
import onnx
def make():
    open("CALLED", "w").close()
    return layers_of_mine.flat()
"""
LAYERS = "import torch\ndef flat(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 4))\n"
SHADOW = 'open("SHADOW", "w").close()\n'


def publish_with_source(folder: Path, source: str) -> Path:
    """Publish a model `m` whose card says that it was made of `source`; return its version's folder."""
    _, published = publish_tiny(Repository(folder / "model_repository"), "m")
    fields = json.loads((published.folder / FILE_NAME).read_text())
    arguments = {"source": source, "weights": "none", "seed": 0, "image_size": 32, "settings": []}
    fields["source"]["arguments"] = arguments
    (published.folder / FILE_NAME).write_text(json.dumps(fields))
    return published.folder


def write_code(folder: Path) -> None:
    (folder / "checks.py").write_text(CODE)
    (folder / "layers_of_mine.py").write_text(LAYERS)
    for name in ("onnx", "onnxruntime", "numpy", "random", "typer"):
        (folder / f"{name}.py").write_text(SHADOW)


@pytest.mark.parametrize("allowed", [(), ("check",), ("checks.make",), ("os",), ("checks:make",), ("",)])
def test_a_card_that_names_code_is_refused_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = publish_with_source(tmp_path, "checks:make")
    write_code(tmp_path)
    before = list(sys.path)
    with pytest.raises(
        UsageError, match=r"1/card\.json: names code, checks:make, which was not run.*--allow-code checks"
    ):
        verify_version(folder, None, allowed_code=allowed)
    assert not list(tmp_path.glob("[A-Z]*"))
    assert "checks" not in sys.modules
    assert sys.path == before


def test_the_commands_refuse_it_too_and_run_it_where_its_module_is_allowed(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    card = publish_with_source(tmp_path, "checks:make") / FILE_NAME
    write_code(tmp_path)
    for command in (("verify", "m"), ("export", "--reproduce", card), ("export", "--reproduce", card.parent)):
        done = resx(*command, "-q")
        assert (done.code, done.out) == (2, "")
        assert "checks:make" in done.err
        assert str(card.relative_to(tmp_path)) in done.err
        assert "--allow-code checks" in done.err
    assert not list(tmp_path.glob("[A-Z]*"))
    allowed = resx("verify", "m", "-q", "--allow-code", "checks")
    assert allowed.code == 0, allowed.err
    assert "its weights differ from the exported ones" in allowed.out
    # Its neighbors in the folder are taken for no package: neither by its code, nor by resx afterwards.
    assert sorted(path.name for path in tmp_path.glob("[A-Z]*")) == ["CALLED", "RAN"]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("os:system", "os"), ("timm:resnet18", ""), ("hf:anything", ""), ("hf:org/name", ""), ("timm.x:f", "timm.x"),
        ("a.b.c:make", "a.b.c"),
        ("torch.hub:load", "torch.hub"), ("torchvision.models:resnet18", "torchvision.models"),
        ("Torchvision:resnet18", "Torchvision"), ("torchvision:resnet18", ""), ("resnet20", ""), ("/etc/passwd", ""),
        ("../run/model.pth", ""), ("theirs.onnx", ""), (":make", ""), ("checks:", ""), ("", ""), ("a/b:make", ""),
    ],
)  # fmt: skip
def test_what_counts_as_code(source: str, module: str) -> None:
    assert module_of(source) == module


def test_a_module_is_allowed_by_its_whole_name(tmp_path: Path) -> None:
    folder = publish_with_source(tmp_path, "a.b:make")
    card = read_card(folder)
    assert named_source(card, ["other", "a.b"], named_in=folder).source == "a.b:make"
    for allowed in (["a"], ["b"], ["a.b.c"], ["A.B"], ["*"]):
        with pytest.raises(UsageError, match="--allow-code a.b"):
            named_source(card, allowed, named_in=folder)


def test_what_a_user_types_runs_as_before_and_needs_no_option(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    write_code(tmp_path)
    done = resx("export", "checks:make", "-q", "--allow-code", "checks")
    assert (done.code, "--reproduce" in done.err) == (2, True)
    load = "from resx.export.sources.python_networks import load_foreign\n"
    load += "load_foreign('checks:make', weights='none', seed=0, image_size=32)"
    subprocess.run([sys.executable, "-P", "-c", load], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.glob("[A-Z]*")) == ["CALLED", "RAN"]


def test_a_standard_module_is_never_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "this.py").write_text(SHADOW)
    (tmp_path / "antigravity").mkdir()
    (tmp_path / "antigravity" / "__init__.py").write_text(SHADOW)
    with pytest.raises(UsageError, match="this:make: module 'this' has no attribute 'make'"):
        load_foreign("this:make", weights="none", seed=0, image_size=32)
    assert not (tmp_path / "SHADOW").exists()


@pytest.mark.parametrize("command", [["doctor", "--json"], ["models", "-q"], ["info", "resnet20"]])
def test_no_command_imports_what_lies_in_the_working_folder(
    tmp_path: Path, resx: Callable[..., Finished], command: list[str]
) -> None:
    write_code(tmp_path)
    for name in ("torch", "rich", "pydantic", "json", "runpy", "sitecustomize", "tritonclient"):
        (tmp_path / f"{name}.py").write_text(SHADOW)
    done = resx(*command)
    assert done.code == 0, done.err
    assert not (tmp_path / "SHADOW").exists()


@pytest.mark.triton
def test_no_process_of_the_server_imports_what_lies_in_the_working_folder(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    """Triton's python stub, which computes the model, and the supervisor."""
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    for name in ("numpy", "onnxruntime", "triton_python_backend_utils", "json", "sitecustomize", "tritonclient"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'SHADOW')!r}, 'w').close()\n")
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    try:
        served = resx("serve", "--detach", "--http-port=0", "--grpc-port=0", "--metrics-port=0")
        assert served.code == 0, served.err
        assert resx("query", "tiny", "p.png").code == 0
    finally:
        assert resx("stop").code == 0
    assert not (tmp_path / "SHADOW").exists()


ADVICE = """\
import numpy as np, os, torch
class Trap:
    def __reduce__(self):
        return os.mkdir, ("SPRUNG",)
torch.save({"conv1.weight": Trap()}, "k.pth")
np.save("k.npy", np.array([Trap()], dtype=object), allow_pickle=True)
def make():
    return torch.load("k.pth", weights_only=True)
def default():
    return torch.load("k.pth")
def array():
    return np.load("k.npy")
"""


@pytest.mark.parametrize("function", ["make", "default", "array"])
def test_a_librarys_advice_to_load_a_refused_file_after_all_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "advised", raising=False)
    (tmp_path / "advised.py").write_text(ADVICE)
    with pytest.raises(UsageError, match="contains code or objects that may run code; save only the tensors") as found:
        load_foreign(f"advised:{function}", weights="none", seed=0, image_size=32)
    for word in ("weights_only", "allow_pickle", "safe_globals", "trusted source"):
        assert word not in str(found.value)
    assert not (tmp_path / "SPRUNG").exists()


def test_a_refused_file_of_weights_names_no_way_to_run_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    torch.save({"a": torch.nn.Linear(2, 2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-100])
    for name in ("whole.pth", "old.pt", "cut.pth"):
        with pytest.raises(UsageError) as found:
            read_weights(tmp_path / name)
        for word in ("weights_only", "safe_globals", "trusted source", "\n"):
            assert word not in str(found.value)
