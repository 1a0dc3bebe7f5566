"""A package that is not installed ends any command with exit 4 and the extra to install, in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from resx.cli.packages import EXTRAS, missing
from tests.support.hidden_packages import environment_without
from tests.support.running_triton import RunningTriton

ROOT = Path(__file__).parents[2]
_RUN_ALL = """
import contextlib, io, json, sys
from resx.cli import main
ended = []
for words in json.load(sys.stdin):
    sys.argv, out, err = ["resx", *words], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main._run()
    ended.append([words, code, err.getvalue()])
print(json.dumps(ended))
"""
"""Many commands in one process: each start of Python would take longer than the command."""
MODEL = ["torch", "torchvision", "onnx", "onnxscript", "safetensors", "sklearn", "onnxruntime"]
OTHERS = ["matplotlib", "pyarrow", "fsspec", "ray", "tensorrt", "tensorrt_rtx", "tensorboard", "mlperf_loadgen",
          "openvino", "nncf", "timm", "huggingface_hub"]  # fmt: skip
PORTS = "--http-port 0 --grpc-port 0 --metrics-port 0"
BARE = [
    "train resnet20 --data digits -o new", "train resnet20 --data folder:pictures -o new",
    "train resnet20 --data digits --tensorboard -o new", "lesion run", "lesion run --no-figures", "paths run",
    "shrink run --drop 2 -o new", "shrink run --pareto -o new",
    "export resnet18", "export resnet18 --fp16", "export resnet18 --int8 --calibrate random", "export run",
    "export run --pareto 2", "export file.onnx", "export file.onnx --int8 --calibrate pictures",
    "export torchvision:resnet18", "export timm:resnet18", "export hf:org/name", "export module:function",
    "export resnet18 --weights imagenet",
    "export resnet18 --weights weights.pth", "export resnet18 --format tensorrt", "export resnet18 --json",
    "export resnet18 --runtime openvino", "export resnet18 --bf16", "export resnet18 --format tensorrt-rtx --fp16",
    "verify tiny", "verify file.onnx file.onnx", "evaluate run", "evaluate resnet20 --data digits",
    "evaluate tiny --data digits",
    f"serve {PORTS}", f"serve --native --detach {PORTS}",
    "predict tiny pictures -o new.csv", "predict tiny pictures -o new.parquet",
    "predict tiny s3://bucket/x -o new.csv", "predict tiny pictures --ray local -o new.csv",
    "tune tiny --plot new.png", "plan tiny --rate 9 --slo p99=15ms --plot new.png", "demo",
]  # fmt: skip
NEEDS_NOTHING = [
    "--help", "--version", "models", "info resnet50", "info tiny", "gc", "bench --schema", "doctor",
    "deploy tiny --render kubernetes",
]  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model, a run's and a picture folder, and files that nobody gets to open."""
    tmp_path = tmp_path_factory.mktemp("original")
    from PIL import Image

    from resx.repository.versions import Repository
    from tests.support.tiny_models import publish_tiny

    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    (tmp_path / "run").mkdir()
    spec = (tmp_path / "model_repository/tiny/1/card.json").read_text()
    (tmp_path / "run/spec.json").write_text(json.dumps(json.loads(spec)["source"]["spec"]))
    for name in ("run/model.safetensors", "file.onnx", "weights.pth", "module.py"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "run/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(tmp_path / "pictures" / label / "1.png")
    return tmp_path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "here")


def ended(
    folder: Path, gone: list[str], commands: list[str], *, state: Path | None = None
) -> list[tuple[list[str], int, str]]:
    asked = json.dumps([command.split() for command in commands])
    beside = folder.with_name("beside")
    environment = (
        os.environ
        | environment_without(gone, beside)
        | {
            "RESX_CACHE": str(beside / "cache"),
            "RESX_STATE": str(state or beside / "state"),
        }
    )
    done = subprocess.run(
        [sys.executable, "-c", _RUN_ALL],
        input=asked,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout)]


def require_nothing_new(folder: Path, before: set[Path]) -> None:
    staging = folder / ".model_repository.staging"
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} - before <= {staging}
    assert not list(staging.glob("*"))


def test_every_command_of_a_bare_install_names_the_extra_and_leaves_nothing(folder: Path) -> None:
    before = set(folder.iterdir())
    for words, code, err in ended(folder, [*MODEL, *OTHERS], BARE):
        assert code == 4, (words, code, err)
        assert re.search(r"pip install (--force-reinstall )?'resx\[[a-z]+\]'", err), (words, err)
        assert len(err.splitlines()) == 1, (words, err)
        assert "Traceback" not in err
    require_nothing_new(folder, before)


def test_what_needs_no_extra_works_in_a_bare_install(folder: Path) -> None:
    for words, code, err in ended(folder, [*MODEL, *OTHERS], NEEDS_NOTHING):
        assert code == 0, (words, err)


@pytest.mark.triton
def test_the_client_commands_need_no_torch(folder: Path, triton: RunningTriton) -> None:
    """Bare `resx` is the client: these find, of all packages, its own dependencies alone."""
    commands = ["status", "query tiny pictures/a/1.png", "bench tiny --duration 0.2 --warmup 0.1", "deploy tiny"]
    asked = [f"{command} --repository={triton.repository.root}" for command in commands]
    for words, code, err in ended(folder, [*MODEL, *OTHERS], asked, state=Path(os.environ["RESX_STATE"])):
        assert code == 0, (words, err)


@pytest.mark.parametrize(
    ("gone", "command", "extra"),
    [
        (["onnxruntime"], "export resnet20", "cpu"),
        (["onnxruntime"], "verify tiny", "cpu"),
        (["onnxruntime"], "predict tiny pictures -o new.csv", "cpu"),
        (["onnxscript"], "export module:net --image-size 8", "cpu"),
        (["torch", "torchvision"], "export model_repository/tiny/1/model.onnx --name other", "cpu"),
        (["torchvision"], "export torchvision:resnet18", "cpu"),
        (["timm"], "export timm:resnet18", "timm"),
        (["timm"], "export hf:org/name", "timm"),
        (["huggingface_hub"], "export hf:org/name", "timm"),
        (["huggingface_hub"], "pull hf:org/name", "hub"),
        (["sklearn"], "train resnet20 --data digits -o new", "cpu"),
        (["safetensors"], "export run", "cpu"),
        (["tensorboard"], "train resnet20 --data digits --tensorboard -o new", "tensorboard"),
        (["matplotlib"], "tune tiny --plot new.png", "analysis"),
        (["pyarrow"], "predict tiny pictures -o new.csv", "predict"),
        (["fsspec"], "predict tiny pictures -o new.csv", "predict"),
        (["ray"], "predict tiny pictures --ray local -o new.csv", "ray"),
        (["openvino"], "export resnet18 --bf16 --target cpu", "openvino"),
        (["tensorrt_rtx"], "export resnet18 --format tensorrt-rtx", "rtx"),
    ],
)
def test_a_partial_install_names_the_extra_that_is_lacking(
    folder: Path, gone: list[str], command: str, extra: str
) -> None:
    (folder / "module.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n"
    )
    before = set(folder.iterdir())
    ((_, code, err),) = ended(folder, gone, [command])
    last = err.splitlines()[-1]
    assert (code, f"'resx[{extra}]'" in last) == (4, True), err
    assert "Traceback" not in err
    require_nothing_new(folder, before)


def test_a_module_that_a_users_own_code_lacks_is_wrong_usage(folder: Path) -> None:
    (folder / "module.py").write_text("import nothing_of_this_name\n")
    ((_, code, err),) = ended(folder, [], ["export module:net"])
    assert (code, "No module named 'nothing_of_this_name'" in err) == (2, True), err


def test_the_extras_are_those_of_the_project() -> None:
    """Each package of an extra is in the table, under an extra that installs it; and nothing else is."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def packages(extra: str) -> set[str]:
        found = set()
        for line in extras[extra]:
            name, inner = re.match(r"([A-Za-z0-9_-]+)(?:\[(\w+)\])?", line).groups()  # type: ignore[union-attr]
            found |= packages(inner) if name == "resx" else {name}
        return found

    everything = set().union(*(packages(extra) for extra in extras if extra not in ("docs", "test")))
    assert {package for package, _ in EXTRAS.values()} == everything - {"onnxruntime-gpu"}
    for package, extra in EXTRAS.values():
        assert package in packages(extra)


def test_a_module_of_resx_that_is_missing_is_a_fault_of_resx() -> None:
    assert missing(ModuleNotFoundError("No module named 'resx.x'", name="resx.x")) is None
    assert missing(ImportError("cannot import name 'y' from 'resx.x'", name="resx.x")) is None


def test_a_package_that_is_broken_is_not_called_missing() -> None:
    broken = missing(ImportError("libcudart.so.12: cannot open shared object file", name="torch._C"))
    assert "torch cannot be imported (libcudart.so.12" in str(broken)
    assert "--force-reinstall 'resx[cpu]'" in str(broken)
    other = missing(ModuleNotFoundError("No module named 'requests'", name="requests"))
    assert str(other) == "requests is not installed; pip install requests"
