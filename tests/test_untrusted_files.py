"""Files and names that come from elsewhere: none runs code, none is read or written outside of its place."""

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

import resx as package
from resx.card.card import FILE_NAME, read_card
from resx.data.image_decoding import load_image
from resx.errors import UsageError
from resx.export.int8.calibration import _from_npz
from resx.repository.versions import Repository
from resx.runtimes import onnx_reader
from resx.serving.running.version_records import record_deployed
from resx.zoo.weights.pretrained import read_weights
from tests.support.tiny_models import publish_tiny

SOURCE = Path(package.__file__).parent
# cifar.py reads the published archives, which are pickles, with an unpickler that knows five harmless names.
RUNS_CODE = {
    "pickle": {"data/cifar_pickles.py": {"Unpickler", "UnpicklingError"}},
    "marshal": {},
    "shelve": {},
    "dill": {},
    "joblib": {},
    "cloudpickle": {},
    "yaml": {"serving/clusters/manifest.py": {"SafeDumper"}, "card/model_card.py": {"safe_dump"}},
}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield `a.b` and its call for every call of a dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(relative: str, text: str) -> list[str]:
    """Return what a source file does that would run what a file holds."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name in RUNS_CODE and relative not in RUNS_CODE[name]]
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            found += [node.attr] if node.attr not in RUNS_CODE["pickle"].get(relative, set()) else []
    for name, call in calls(tree):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name.endswith("torch.load") and options.get("weights_only") != "True":
            found.append(name)
        if name in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False":
            found.append(name)
        if name in {"eval", "os.system", "os.popen"} or options.get("shell") == "True":
            found.append(name)
        if name.endswith((".extractall", ".extract", "unpack_archive")):
            found.append(name)
        if name == "exec" and ast.unparse(call) != "exec('')":
            found.append(name)
    return found


def test_nothing_in_the_package_runs_what_a_file_holds() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 80
    found = {
        str(path.relative_to(SOURCE)): faults(path.relative_to(SOURCE).as_posix(), path.read_text()) for path in files
    }
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "tar.extractall(folder)",
    ],
)
def test_that_check_finds(text: str) -> None:
    assert faults("somewhere.py", text)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_weights_that_hold_a_program_are_refused_and_do_not_run(tmp_path: Path) -> None:
    import torch

    sprung = tmp_path / "sprung"
    torch.save({"conv1.weight": Trap(sprung)}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Trap(sprung)))
    (tmp_path / "bare.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("zip.pth", "bare.pth", "bare.safetensors"):
        with pytest.raises(UsageError, match=name):
            read_weights(tmp_path / name)
    assert not sprung.exists()


def test_a_calibration_table_that_holds_a_program_is_refused_and_does_not_run(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "table.npz", "w") as archive:
        archive.writestr("images.npy", content.getvalue())
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("table.npz", "bare.npz"):
        with pytest.raises(UsageError, match=name):
            _from_npz(tmp_path / name, (3, 4, 4), 1)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_an_onnx_files_weights_lie_beside_it(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(192 * 4))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[192, 1])
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 192])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])
    node = helper.make_node("MatMul", ["image", "weight"], ["logits"])
    graph = helper.make_graph([node], "theirs", [image], [logits], [weight])
    (folder / "theirs.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UsageError, match="theirs.onnx: its external data cannot be read"):
        onnx_reader.read_model(folder / "theirs.onnx")


def test_a_card_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    _, published = publish_tiny(Repository(tmp_path / "models"), "m")
    card = json.loads((published.folder / FILE_NAME).read_text())
    for name in ("../model.onnx", "/etc/passwd", "a/b", ""):
        card["files"] = {name: "0" * 64}
        (published.folder / FILE_NAME).write_text(json.dumps(card))
        with pytest.raises(UsageError, match=r"card\.json: files: .*letters, digits"):
            read_card(published.folder)


@pytest.mark.parametrize("name", ["../m", "/etc/m", "m\n", ""])
def test_a_card_cannot_name_a_model_elsewhere(tmp_path: Path, name: str) -> None:
    _, published = publish_tiny(Repository(tmp_path / "models"), "m")
    card = json.loads((published.folder / FILE_NAME).read_text()) | {"name": name}
    (published.folder / FILE_NAME).write_text(json.dumps(card))
    with pytest.raises(UsageError, match=r"card\.json: name: .*letters, digits"):
        read_card(published.folder)


def test_folders_that_are_no_versions_are_left_alone(tmp_path: Path) -> None:
    for name in ("1", "2", "02", "3²", "4x", "9" * 40):
        (tmp_path / "m" / name).mkdir(parents=True)
    assert Repository(tmp_path).versions("m") == [1, 2]


HOSTILE = ["../x", "/etc", "a/b", "..", ".hidden", "a b", "ä", "a\nb", "-x", "x" * 129, ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_checked_before_it_is_a_path(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "state"))
    repository = Repository(tmp_path / "models")
    for use in (repository.versions, repository.endpoints, repository.version_folder, repository.require_publishable):
        with pytest.raises(UsageError, match="letters, digits"):
            use(name)
    with pytest.raises(UsageError, match="letters, digits"):
        record_deployed(repository, name, [1])
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_would_start_another_program_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "script.eps")
    (tmp_path / "script.eps").rename(tmp_path / "script.png")
    with pytest.raises(UsageError, match="PostScript is not supported; give a PNG, JPEG or WebP"):
        load_image(tmp_path / "script.png")


def test_a_table_of_images_that_unpacks_to_gigabytes_is_refused_by_its_sizes(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 3, 4, 4)})
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(1025):
            file.write(bytes(2**20))
    os.mkfifo(tmp_path / "pipe.npz")
    for name, reason in (
        ("claims", "not a .npz file that numpy can read"),
        ("bomb", "unpacks to 1,074,790,400 bytes: the limit is"),
        ("pipe", "a pipe, not a regular file"),
    ):
        with pytest.raises(UsageError, match=rf"{name}\.npz: {reason}"):
            _from_npz(tmp_path / f"{name}.npz", (3, 4, 4), 1)


def test_a_result_a_card_and_a_file_of_labels_are_bounded_and_regular(tmp_path: Path) -> None:
    from resx.bench.results.result import read_result
    from resx.export.sources.onnx_interface import read_labels

    for name in ("card.json", "labels.txt", "result.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
    for read, name in (
        (lambda: read_card(tmp_path), "card.json"),
        (lambda: read_result(tmp_path / "result.json"), "result.json"),
        (lambda: read_labels(str(tmp_path / "labels.txt"), 3), "labels"),
    ):
        with pytest.raises(UsageError, match=rf"{name}.*: file of 1,099,511,627,776 bytes: the limit is"):
            read()
    (tmp_path / "labels.txt").unlink()
    os.mkfifo(tmp_path / "labels.txt")
    with pytest.raises(UsageError, match=r"--labels .*labels\.txt: .*: a pipe, not a regular file"):
        read_labels(str(tmp_path / "labels.txt"), 3)
