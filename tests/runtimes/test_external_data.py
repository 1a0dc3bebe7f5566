"""Weights beside an .onnx file: laid out as caches do they are taken in, and what leads elsewhere is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resx.card.origin import SourceArguments
from resx.errors import UsageError
from resx.export.request import ExportRequest, key_of
from resx.runtimes import onnx_reader
from resx.runtimes.external_data import LIMIT_BYTES
from resx.runtimes.onnxruntime_model import open_session
from tests.support.command import Finished

ROWS = np.random.default_rng(1).normal(0, 1, (2, 12)).astype(np.float32)
WEIGHT = np.random.default_rng(0).normal(0, 1, (12, 5)).astype(np.float32)


def product() -> ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [image], [answer], [numpy_helper.from_array(WEIGHT, "w")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, location: str = "m.onnx.data") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(product(), folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "m.onnx"


def in_blobs(folder: Path) -> Path:
    """As Hugging Face's cache: every file is a link to one named by its hash."""
    path = saved(folder / "blobs")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, name in enumerate(("m.onnx", "m.onnx.data")):
        (path.parent / name).rename(path.parent / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    return snapshot / "m.onnx"


def hard_linked(folder: Path) -> Path:
    """As `cp -l` and DVC."""
    path = saved(folder / "cache")
    (folder / "work").mkdir()
    for name in ("m.onnx", "m.onnx.data"):
        os.link(path.parent / name, folder / "work" / name)
    return folder / "work" / "m.onnx"


def linked_folder(folder: Path) -> Path:
    path = saved(folder / "real")
    (folder / "link").symlink_to("real")
    return folder / "link" / path.name


def linked_file(folder: Path) -> Path:
    """`ln -s /models/m.onnx`: the data stay where the file really is."""
    path = saved(folder / "real")
    (folder / "here.onnx").symlink_to(path)
    return folder / "here.onnx"


def as_mounted(folder: Path) -> Path:
    """As Kubernetes mounts a volume: the newest state is swapped in by one link."""
    saved(folder / "..2026")
    (folder / "..data").symlink_to("..2026")
    for name in ("m.onnx", "m.onnx.data"):
        (folder / name).symlink_to(f"..data/{name}")
    return folder / "m.onnx"


def within_the_folder(folder: Path) -> Path:
    path = saved(folder)
    (folder / "weights").mkdir()
    (folder / "m.onnx.data").rename(folder / "weights" / "1")
    (folder / "m.onnx.data").symlink_to("weights/1")
    return path


@pytest.mark.parametrize(
    "laid_out",
    [in_blobs, hard_linked, linked_folder, linked_file, as_mounted, within_the_folder],
    ids=lambda function: function.__name__,
)
def test_links_of_a_cache_are_followed(tmp_path: Path, laid_out: Callable[[Path], Path]) -> None:
    path = laid_out(tmp_path)
    (answer,) = open_session(path, threads=1).run(None, {"x": ROWS})
    np.testing.assert_allclose(answer, ROWS @ WEIGHT, atol=1e-5)
    assert onnx_reader.describe_file(path)["weights"] == WEIGHT.size


def linked_out(folder: Path) -> tuple[Path, str]:
    path = saved(folder / "given")
    (path.parent / "m.onnx.data").rename(folder / "secret")
    (path.parent / "m.onnx.data").symlink_to(folder / "secret")
    return path, r"m\.onnx\.data is a link to \S+secret, outside .*: cp -L \S+m\.onnx \S+m\.onnx\.data FOLDER"


def folder_linked_out(folder: Path) -> tuple[Path, str]:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "w").write_bytes(WEIGHT.tobytes())
    path = named(folder / "given", "weights/w")
    (path.parent / "weights").symlink_to("../elsewhere")
    return path, r"given/weights/w is a link to \S+elsewhere/w, outside"


def dangling(folder: Path) -> tuple[Path, str]:
    path = saved(folder)
    (folder / "m.onnx.data").unlink()
    (folder / "m.onnx.data").symlink_to("gone")
    return path, r"m\.onnx\.data are a link to gone, which does not exist"


def no_file(folder: Path) -> tuple[Path, str]:
    """Opening a pipe would wait for ever."""
    path = saved(folder)
    (folder / "m.onnx.data").unlink()
    os.mkfifo(folder / "m.onnx.data")
    return path, r"its weights are in m\.onnx\.data, which is missing"


def shortened(folder: Path) -> tuple[Path, str]:
    path = saved(folder)
    (folder / "m.onnx.data").write_bytes(bytes(100))
    return path, r"tensor w ends at byte 240 of m\.onnx\.data, which has 100"


def named(folder: Path, location: str, **entries: str) -> Path:
    path = saved(folder)
    model = onnx.load(path, load_external_data=False)
    (tensor,) = model.graph.initializer
    del tensor.external_data[:]
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "broken", [linked_out, folder_linked_out, dangling, no_file, shortened], ids=lambda f: f.__name__
)
def test_what_cannot_be_taken_in_is_named(tmp_path: Path, broken: Callable[[Path], tuple[Path, str]]) -> None:
    path, reason = broken(tmp_path)
    for read in (onnx_reader.read_model, onnx_reader.describe_file, onnx_reader.files_of, open_session):
        with pytest.raises(UsageError, match=reason) as refusal:
            read(path)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "a/../../secret", "", "m.onnx\0.data"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    with pytest.raises(UsageError, match="is not a file in the model's folder"):
        onnx_reader.read_model(named(tmp_path / "given", location))


@pytest.mark.parametrize("entry", [{"offset": "-1"}, {"length": "many"}, {"length": "9" * 30}, {"offset": "٣"}])
def test_a_place_that_is_no_number_is_refused(tmp_path: Path, entry: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="of tensor w is not a number of bytes"):
        onnx_reader.read_model(named(tmp_path, "m.onnx.data", **entry))


def test_without_offset_and_length_a_tensor_is_the_whole_file(tmp_path: Path) -> None:
    model = onnx_reader.read_model(named(tmp_path, "m.onnx.data"))
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)


def test_tensors_in_attributes_and_inner_graphs_are_taken_in_too(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"])],
        "inner",
        [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.full((1, 5), 2, np.float32))),
        helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner),
        helper.make_node("Mul", ["z", "two"], ["y"]),
    ]
    model = product()
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="data", size_threshold=0, convert_attribute=True)
    assert [file.name for file in onnx_reader.files_of(path)] == ["m.onnx", "data"]
    (answer,) = open_session(path, threads=1).run(None, {"x": ROWS})
    np.testing.assert_allclose(answer, 2 * ROWS @ WEIGHT, atol=1e-5)


def test_other_weights_beside_the_same_graph_are_another_export(tmp_path: Path) -> None:
    path = saved(tmp_path)
    arguments = SourceArguments(source=str(path), weights="none", seed=0, image_size=None, settings=())
    request = ExportRequest(source=arguments, target="cpu")
    before = key_of(request)
    (tmp_path / "m.onnx.data").write_bytes((2 * WEIGHT).tobytes())
    assert None not in (before, key_of(request))
    assert key_of(request) != before


def oversized(folder: Path) -> Path:
    """Weights of 2.2 GB that take no room: a hole in a file."""
    path = named(folder, "m.onnx.data", offset="0", length=str(LIMIT_BYTES))
    os.truncate(folder / "m.onnx.data", LIMIT_BYTES)
    return path


def hollow(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.onnx").touch()
    os.truncate(folder / "m.onnx", LIMIT_BYTES + 1)
    return folder / "m.onnx"


@pytest.mark.parametrize("large", [oversized, hollow], ids=lambda function: function.__name__)
def test_above_2_gb_a_file_is_refused_before_it_is_read(
    tmp_path: Path, large: Callable[[Path], Path], resx: Callable[..., Finished]
) -> None:
    path = large(tmp_path / "large")
    for read in (onnx_reader.read_model, onnx_reader.files_of, open_session):
        with pytest.raises(UsageError, match=r"m\.onnx: 2\.1 GB with its weights; an ONNX file can hold 2 GB"):
            read(path)
    done = resx("export", path, "--fp16", "-q")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["large"]


def test_info_of_a_large_model_reads_no_weights(tmp_path: Path) -> None:
    assert onnx_reader.describe_file(oversized(tmp_path))["weights"] == WEIGHT.size


def test_data_that_were_copied_apart_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "there")
    shutil.copy(path, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"its weights are in m\.onnx\.data, which is missing"):
        onnx_reader.read_model(tmp_path / "m.onnx")


def test_tensors_that_share_a_few_bytes_a_thousand_times_are_refused_unread(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "m.onnx.data").write_bytes(bytes(100_000))
    model = onnx.load(path, load_external_data=False)
    for number in range(100):
        tensor = TensorProto(name=f"t{number}", data_type=TensorProto.FLOAT, dims=[25_000])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "m.onnx.data"), ("offset", "0"), ("length", "100000")):
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match=r"m\.onnx: its tensors take 10,000,240 bytes out of 100,000 that lie"):
        onnx_reader.read_model(path)
