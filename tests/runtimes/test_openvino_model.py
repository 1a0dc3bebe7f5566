"""A file in OpenVINO: answers as in onnxruntime, in the precision that was asked for; one line for what cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper

from resx.errors import ExportError, MissingCapability, UsageError
from resx.machine import usable_cores
from resx.repository.versions import Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.runtimes.openvino_model import OpenVinoModel, compile_options
from resx.runtimes.openvino_package import computes_in_bf16, load_openvino, reason_of, require_bf16
from resx.runtimes.profiling.openvino_counters import OpenVinoProbe
from tests.support import onnx_files
from tests.support.tiny_models import publish_tiny

needs_bf16 = pytest.mark.skipif(not computes_in_bf16(), reason="this processor has no BF16, according to OpenVINO")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    repository = Repository(tmp_path_factory.mktemp("openvino") / "model_repository")

    def file(input_type: str) -> Path:
        if input_type not in repository.names():
            publish_tiny(repository, input_type, input_type=input_type)
        return repository.version_folder(input_type) / "model.onnx"

    return file


def images(kind: str, number: int) -> np.ndarray:
    noise = np.random.default_rng(number).integers(0, 256, (number, 3, 16, 16), dtype=np.uint8)
    return noise if kind == "uint8" else (noise / 128 - 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_file_answers_as_in_onnxruntime(published: Callable[[str], Path], kind: str, number: int) -> None:
    given = images(kind, number)
    expected = OnnxRuntimeModel(published(kind))(given)
    answer = OpenVinoModel(published(kind))(given)
    assert (answer.shape, answer.dtype) == (expected.shape, np.float32)
    assert np.abs(answer - expected).max() <= 1e-4 * np.abs(expected).max()


def test_f32_is_asked_for_and_computed_where_openvino_would_take_bf16(published: Callable[[str], Path]) -> None:
    precisions = OpenVinoModel(published("uint8"), precision_hint="f32").layer_precisions
    assert set(precisions) == {"f32"}
    assert precisions["f32"] > 5


@needs_bf16
def test_bf16_is_computed_by_the_layers_and_rounds(published: Callable[[str], Path]) -> None:
    model, given = OpenVinoModel(published("uint8"), precision_hint="bf16"), images("uint8", 4)
    assert model.layer_precisions["bf16"] > 5
    expected = OpenVinoModel(published("uint8"))(given)
    difference = np.abs(model(given) - expected).max() / np.abs(expected).max()
    assert 1e-5 < difference < 4e-2


def test_bf16_is_refused_with_the_reason_where_the_processor_has_none(published: Callable[[str], Path]) -> None:
    with pytest.raises(MissingCapability, match=r"^bf16: .* has no BF16 instructions.*remove --bf16 here"):
        require_bf16(can_compute=lambda: False)
    if not computes_in_bf16():
        with pytest.raises(MissingCapability, match="no BF16 instructions"):
            OpenVinoModel(published("uint8"), precision_hint="bf16")


def test_one_answer_stays_as_it_is_when_the_next_one_is_computed(published: Callable[[str], Path]) -> None:
    model = OpenVinoModel(published("uint8"))
    first = model.tensor(images("uint8", 2))
    before = first.copy()
    model.tensor(images("uint8", 3)[:2])
    assert np.array_equal(first, before)


@pytest.mark.parametrize("asked", [1, usable_cores(), 10_000])
def test_threads_are_never_more_than_this_process_may_run(published: Callable[[str], Path], asked: int) -> None:
    assert compile_options("f32", asked)["INFERENCE_NUM_THREADS"] == min(asked, usable_cores())
    assert OpenVinoModel(published("uint8"), threads=asked)(images("uint8", 1)).shape == (1, 10)


def test_a_product_that_is_denormal_counts_as_zero(tmp_path: Path) -> None:
    tiny = helper.make_tensor("tiny", TensorProto.FLOAT, [3, 3, 1, 1], [1e-30] * 9)
    node = helper.make_node("Conv", ["x", "tiny"], ["y"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [tiny])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    assert not OpenVinoModel(path).tensor(np.full((1, 3, 4, 4), 1e-10, np.float32)).any()


def test_the_callers_own_denormal_numbers_stay(published: Callable[[str], Path]) -> None:
    assert float("1e-310") / 4
    model = OpenVinoModel(published("uint8"))
    assert float("1e-310") / 4, "after the model was compiled"
    model.tensor(images("uint8", 2))
    assert float("1e-310") / 4, "after it computed"
    (given,) = onnx.load(published("uint8")).graph.input
    feed = {given.name: images("uint8", 1)}
    counted = OpenVinoProbe(published("uint8").read_bytes(), feed, threads=1, where="m", hint="f32")
    counted.run()
    assert float("1e-310") / 4, "after it was profiled"


def test_weights_beside_the_file_and_a_file_that_was_converted_answer_alike(
    published: Callable[[str], Path], tmp_path: Path
) -> None:
    file, given = published("uint8"), images("uint8", 3)
    expected = OpenVinoModel(file)(given)
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(file), apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    openvino.save_model(openvino.Core().read_model(file), tmp_path / "model.xml", compress_to_fp16=False)
    for path in (apart, tmp_path / "model.xml"):
        assert np.array_equal(OpenVinoModel(path)(given), expected)
    assert np.array_equal(OpenVinoModel(tmp_path / "absent.onnx", content=file.read_bytes())(given), expected)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (np.zeros((1, 3, 16, 16), np.float32), r"fails on an input \[1, 3, 16, 16\]: .*f32.*u8"),
        (np.zeros((1, 3, 15, 16), np.uint8), r"fails on an input \[1, 3, 15, 16\]: .*\(1\.3\.15\.16\)"),
        (np.zeros((3, 16, 16), np.uint8), r"fails on an input \[3, 16, 16\]: .*incompatible"),
    ],
)
def test_an_input_of_another_type_or_shape_is_refused_and_never_cast(
    published: Callable[[str], Path], given: np.ndarray, reason: str
) -> None:
    with pytest.raises(ExportError, match=reason) as error:
        OpenVinoModel(published("uint8")).tensor(given)
    assert "\n" not in str(error.value)
    assert "src/" not in str(error.value)


def write_operator(path: Path, operator: str, domain: str = "", **attributes: object) -> Path:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    tensors[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(
        helper.make_model(
            helper.make_graph([node], "g", tensors[:1], tensors[1:]), opset_imports=opsets, ir_version=10
        ),
        path,
    )
    return path


@pytest.mark.parametrize(
    ("operator", "domain", "named"),
    [("Optional", "", "Optional"), ("Scaler", "ai.onnx.ml", "ai.onnx.ml.Scaler"), ("Strange", "my.own", "my.own.Str")],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_an_operator_that_openvino_lacks_is_named_in_one_line(
    tmp_path: Path, operator: str, domain: str, named: str, *, as_bytes: bool
) -> None:
    path = write_operator(tmp_path / "model.onnx", operator, domain)
    content = path.read_bytes() if as_bytes else None
    with pytest.raises(ExportError, match=rf"not support operator {named}.*; use --runtime onnxruntime$"):
        OpenVinoModel(path, content=content)


def test_files_that_cannot_be_read_are_refused_as_by_onnxruntime(
    published: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "cut.onnx").write_bytes(published("uint8").read_bytes()[:3000])
    (tmp_path / "alone.xml").write_text("<net/>")
    (tmp_path / "no.xml").write_text("<net/>")
    (tmp_path / "no.bin").write_bytes(b"")
    for name, reason in (("cut.onnx", "truncated"), ("gone.onnx", "no such file"), ("alone.xml", r"alone\.bin: no")):
        with pytest.raises(UsageError, match=reason):
            OpenVinoModel(tmp_path / name)
    with pytest.raises(ExportError, match="OpenVINO rejects it: .*the model is correct"):
        OpenVinoModel(tmp_path / "no.xml")


def test_a_file_of_two_outputs_or_inputs_is_refused(tmp_path: Path) -> None:
    two = onnx_files.sum_and_half(tmp_path / "two.onnx")
    with pytest.raises(ExportError, match=r"inputs \['x'\] and outputs \['total', 'half'\]"):
        OpenVinoModel(two)
    pair = onnx_files.identities(tmp_path / "pair.onnx", {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT}, ["n", 3])
    with pytest.raises(ExportError, match=r"inputs \['a', 'b'\]"):
        OpenVinoModel(pair)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingCapability, match=r"^openvino is not installed; pip install 'resx\[openvino\]'$"):
        load_openvino()


def test_an_error_is_told_without_the_places_in_openvinos_sources() -> None:
    text = (
        "Exception from src/a.cpp:1:\nCheck 'x' failed at src/b.cpp:2:\nFrontEnd API failed with Z:\n what is wrong \n"
    )
    assert reason_of(RuntimeError(text)) == "what is wrong"
    assert reason_of(RuntimeError("Exception from src/a.cpp:1:")) == "Exception from src/a.cpp:1:"


def test_nothing_is_reported_and_nothing_is_written_into_the_home_folder(tmp_path: Path) -> None:
    code = """
import resx, openvino, nncf, sys
openvino.Core()
assert sys.modules["openvino_telemetry"] is None
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
"""
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("CI", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("intel*"))
