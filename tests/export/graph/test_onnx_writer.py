from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import resx
from resx.card.kinds import InputType, Precision
from resx.errors import UsageError
from resx.export.graph import onnx_writer
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.training import evaluation
from resx.zoo.building import build_from_spec
from tests.support.tiny_models import tiny_spec


def write(
    path: Path, *, survival: float = 1.0, precision: Precision = "fp32", input_type: InputType = "uint8"
) -> onnx.ModelProto:
    spec = tiny_spec(survival=survival)
    model = build_from_spec(spec, seed=0).eval()
    return onnx_writer.write_onnx(resx.fold(model), spec, path, precision=precision, input_type=input_type)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_stochastic_depth_leaves_no_trace_in_the_graph(tmp_path: Path) -> None:
    constant = write(tmp_path / "constant.onnx")
    stochastic = write(tmp_path / "stochastic.onnx", survival=0.5)
    assert operators(constant) == operators(stochastic)
    assert operators(constant)["BatchNormalization"] == 0


def test_the_file_takes_images_of_any_batch_and_gives_float_logits(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx")
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    dims = image.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [3, 16, 16]
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    session = OnnxRuntimeModel(tmp_path / "m.onnx")
    for size in (1, 2, 7):
        assert session(np.zeros((size, 3, 16, 16), np.uint8)).shape == (size, 10)


def test_the_file_computes_what_pytorch_computes(tmp_path: Path) -> None:
    spec = tiny_spec(survival=0.5)
    model = build_from_spec(spec, seed=0).eval()
    onnx_writer.write_onnx(resx.fold(model), spec, tmp_path / "m.onnx", precision="fp32", input_type="uint8")
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    expected = evaluation.logits(model, spec, images).numpy()
    assert np.abs(OnnxRuntimeModel(tmp_path / "m.onnx")(images) - expected).max() < 1e-5


def test_fp16_stores_its_weights_as_fp16_and_keeps_input_and_output(tmp_path: Path) -> None:
    single, half = write(tmp_path / "single.onnx"), write(tmp_path / "half.onnx", precision="fp16")
    num_weights, num_half = onnx_reader.weight_counts(half)
    assert num_half / num_weights > 0.95
    assert onnx_reader.weight_counts(single)[1] == 0
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [
        onnx.TensorProto.UINT8,
        onnx.TensorProto.FLOAT,
    ]


def test_float_input_takes_the_normalised_tensor(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", input_type="float32")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_one_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.onnx")
    write(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_file_says_nothing_of_the_machine_that_wrote_it(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    for word in (b"site-packages", b".py", str(Path.home()).encode(), str(Path.cwd()).encode()):
        assert word not in content


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    spec = tiny_spec()
    model = build_from_spec(spec, seed=0).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    onnx_writer.write_onnx(model, spec, tmp_path / "m.onnx", precision="fp16", input_type="uint8")
    assert all(
        (tensor == before[name]).all() and tensor.dtype == before[name].dtype
        for name, tensor in model.state_dict().items()
    )


def test_a_file_is_described_and_a_broken_one_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    facts = onnx_reader.describe_file(tmp_path / "m.onnx")
    assert facts["inputs"] == ["image UINT8 [batch, 3, 16, 16]"]
    assert facts["metadata"]["resx.name"] == "tiny"  # type: ignore[index]
    (tmp_path / "half.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:5000])
    with pytest.raises(UsageError, match="truncated or not an ONNX model"):
        onnx_reader.describe_file(tmp_path / "half.onnx")
    with pytest.raises(UsageError, match="no such file"):
        onnx_reader.describe_file(tmp_path / "none.onnx")
