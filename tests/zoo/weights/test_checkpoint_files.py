"""What a file given as weights is, told by its bytes; nothing in it runs, and the message says what to do."""

import argparse
import datetime
import gzip
import io
import pathlib
import pickle
import shlex
import subprocess
import sys
import tarfile
import types
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file
from torch import nn

from resx.errors import UsageError
from resx.zoo.weights.checkpoint_files import read_checkpoint

STATE = {"conv1.weight": torch.arange(4.0), "fc.bias": torch.ones(2)}


def refusal(path: Path) -> str:
    """Return the one line that a file is refused with."""
    with pytest.raises(UsageError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    assert "weights_only" not in text
    return text.removeprefix(f"{path}: ")


def zipped(names: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return content.getvalue()


def saved_numpy() -> bytes:
    content = io.BytesIO()
    np.savez(content, weight=np.ones(3))
    return content.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n"
GRAPH = helper.make_graph([], "g", [], [])
OTHERS = {
    "truncated: it is empty": b"",
    "an HTML page, not weights; the download got a login": b"\n <!DOCTYPE html><html><title>Sign in</title></html>",
    "XML text, not weights; the download got an error": b'<?xml version="1.0"?><Error>AccessDenied</Error>',
    "JSON text, not weights": b'{"epoch": 3}',
    "the index of weights in several files": b'{"metadata": {}, "weight_map": {"fc.bias": "model-00001.safetensors"}}',
    "a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull": LFS,
    "text, not weights": "Gewichte für später\n".encode() * 99,
    "neither safetensors nor saved by torch.save": bytes(range(128, 256)) * 9,
    "gzip-compressed, not weights; unpack it": gzip.compress(b"weights"),
    "an HDF5 file (Keras), not weights; convert it": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "a NumPy array, not weights": b"\x93NUMPY\1\0" + bytes(99),
    "NumPy arrays (.npz)": saved_numpy(),
    "a tar archive, not weights": tarred(),
    "a ZIP archive with run/best.pth in it; unpack it": zipped({"run/log.txt": b"", "run/best.pth": b""}),
    "a ZIP archive without weights": zipped({"readme.md": b""}),
    "an ONNX model, not weights; export it directly": helper.make_model(GRAPH).SerializeToString(),
    "an ONNX model, not": helper.make_model(GRAPH, producer_name="pytorch").SerializeToString(),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + bytes(99),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("words", list(OTHERS))
def test_what_is_no_weights_is_called_what_it_is(tmp_path: Path, words: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(OTHERS[words])
    assert refusal(path).startswith(words)


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith("is a folder; give the .safetensors, .pth or .pt file inside")


def test_the_bytes_count_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "safetensors.pth")
    torch.save(STATE, tmp_path / "torch.safetensors")
    torch.save(STATE, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("safetensors.pth", "torch.safetensors", "old.ckpt"):
        found = read_checkpoint(tmp_path / name)
        assert {key: item.tensor.tolist() for key, item in found.items()} == {k: t.tolist() for k, t in STATE.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_and_exported_programs_are_told_from_weights(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "a TorchScript archive" in refusal(tmp_path / "script.pt")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "program.pt2")
    assert "a torch.export program" in refusal(tmp_path / "program.pt2")


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_half_a_file_is_truncated(tmp_path: Path, share: float, is_old: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.ones(9999)}, path, _use_new_zipfile_serialization=not is_old)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert refusal(path).startswith("truncated")


HARMLESS: dict[str, object] = {
    "argparse.Namespace": argparse.Namespace(lr=0.1), "types.SimpleNamespace": types.SimpleNamespace(lr=0.1),
    "pathlib.PosixPath": pathlib.PosixPath("data"), "datetime.datetime": datetime.datetime(2026, 1, 1),
    "datetime.timedelta": datetime.timedelta(1), "numpy._core.multiarray.scalar": np.float64(0.7),
    "numpy._core.multiarray._reconstruct": np.ones(3, np.float32), "collections.defaultdict": defaultdict(list),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HARMLESS))
def test_a_harmless_class_is_named_with_a_command_that_saves_the_tensors_alone(tmp_path: Path, name: str) -> None:
    torch.save({"model": STATE, "hyper_parameters": {"deep": HARMLESS[name]}}, tmp_path / "w.pth")
    told = refusal(tmp_path / "w.pth")
    assert told.startswith(f"not a plain file of weights: it also holds {name}")
    assert "save only the tensors: python -c" in told


@pytest.mark.parametrize("is_old", [False, True])
def test_that_command_saves_the_tensors_alone(tmp_path: Path, is_old: bool) -> None:
    content = {"model": STATE, "epoch": 3, "hyper_parameters": HARMLESS, "args": argparse.Namespace()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not is_old)
    python, *arguments = shlex.split(refusal(tmp_path / "w.pth").partition("save only the tensors: ")[2])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, timeout=600)
    assert list(read_checkpoint(tmp_path / "tensors.pth")) == [f"model.{key}" for key in STATE]


class Config:
    """A user's own class."""


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.path,)


SAVE: dict[str, Callable[[object, Path], None]] = {
    "zip": lambda content, path: torch.save(content, path),
    "protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "before 1.6": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "bare": lambda content, path: path.write_bytes(pickle.dumps(content)) and None,
}


@pytest.mark.parametrize("kind", list(SAVE))
def test_other_classes_are_named_and_never_made(tmp_path: Path, kind: str) -> None:
    SAVE[kind]({"model": STATE, "config": Config(), "trap": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    told = refusal(tmp_path / "w.pth")
    assert f"{__name__}.Config" in told
    assert "torch.save(model.state_dict(), 'weights.pth')" in told
    assert "add_safe_globals" not in told
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("is_enclosed", [False, True])
def test_a_whole_network_is_named_by_its_class(tmp_path: Path, is_enclosed: bool) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    torch.save({"model": network, "epoch": 1} if is_enclosed else network, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").startswith(
        "not a plain file of weights: it holds a whole pickled network (torch.nn.modules.container.Sequential)"
    )


def test_a_mapping_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, object] = {"model": STATE}
    content["again"] = content
    torch.save(content, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == [f"model.{key}" for key in STATE]


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            is_storage = name.endswith("/data/0")
            bomb.writestr(name, bytes(50_000_000) if is_storage else plain.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    assert "bytes that unpack to 50,00" in refusal(tmp_path / "bomb.pth")


@pytest.mark.parametrize("kind", ["an archive", "a bare pickle"])
def test_a_pickle_that_would_make_gigabytes_of_objects_is_refused(tmp_path: Path, kind: str) -> None:
    many = b"\x80\x02" + b"]" * 4_100_000 + b"."
    legacy = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})) + many
    archive = zipped({"x/data.pkl": many, "x/version": b"3", "x/byteorder": b"little"})
    (tmp_path / "x.pth").write_bytes(archive if kind == "an archive" else legacy)
    assert refusal(tmp_path / "x.pth").startswith("holds more than 4,000,000 objects beside its tensors")
