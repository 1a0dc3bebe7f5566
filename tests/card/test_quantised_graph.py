"""Files that are quantized already: recognized by their graph, published as they are, never quantized again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from resx.card.card import read_card
from resx.card.kinds import Precision
from resx.card.quantised_graph import recognise
from resx.errors import UsageError
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.request import request_of
from tests.support.command import Finished
from tests.support.onnx_files import load_file, network, saved

KINDS = ("qdq", "qoperator", "dynamic", "weight-only", "four-bits")


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """One batch of noise."""

    def __init__(self) -> None:
        rows = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
        self.batches: Iterator[dict[str, np.ndarray]] = iter([{"given": rows}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def linear(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], domains: tuple[str, ...] = ()) -> ModelProto:
    """A graph from "x" [N, 3, 8, 8], flat as "f", to "y" [N, 10]."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


WEIGHTS = {"wq": np.arange(1920).reshape(10, 192).astype(np.int8), "s": np.float32(0.01)}
STORED = [
    helper.make_node("DequantizeLinear", ["wq", "s"], ["w"]),
    helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
]


def four_bits() -> ModelProto:
    layer = helper.make_node(
        "MatMulNBits", ["f", "b", "scales"], ["y"], domain="com.microsoft", K=192, N=10, bits=4, block_size=32
    )
    packed = (np.arange(960) % 256).astype(np.uint8).reshape(10, 6, 16)
    return linear([layer], {"b": packed, "scales": np.full(60, 0.01, np.float32)}, ("com.microsoft",))


def quantised(kind: str, folder: Path) -> Path:
    if kind == "weight-only":
        return saved(linear(STORED, WEIGHTS), folder)
    if kind == "four-bits":
        return saved(four_bits(), folder)
    fp32, path = saved(network(opset=17), folder, "fp32"), folder / "theirs.onnx"
    if kind == "dynamic":
        quantize_dynamic(fp32, path)
    else:
        form = QuantFormat.QDQ if kind == "qdq" else QuantFormat.QOperator
        quantize_static(fp32, path, Noise(), quant_format=form)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_file_is_published_as_it_is_and_its_card_says_so(kind: str, tmp_path: Path) -> None:
    source = load_file(quantised(kind, tmp_path))
    folder = tmp_path / "version"
    folder.mkdir()
    # Dynamic ranges are the batch's, so that such a file is published for single images only.
    options = ExportOptions(input_type="float32", max_batch_size=1 if kind == "dynamic" else 8)
    card = export_version(source, options, folder, name="theirs", command="a test")
    found = card.quantised_before
    assert found is not None
    assert found.kind == ("weight-only" if kind == "four-bits" else kind)
    assert found.num_quantised_layers == found.num_layers == (2 if kind in KINDS[:3] else 1)
    assert found.is_dynamic == (kind == "dynamic")
    assert card.precision == ("int8" if found.computes_in_int8 else "fp32")
    assert read_card(folder) == card
    assert request_of_source(card) == "fp32"
    written = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    assert written["resx.precision"] == card.precision


def request_of_source(card: object) -> str:
    """Return the precision to ask for when the card's export is repeated: none."""
    from resx.card.card import Card
    from resx.card.origin import SourceArguments

    assert isinstance(card, Card)
    arguments = SourceArguments(source="theirs.onnx", weights="none", seed=0, image_size=None, settings=())
    return request_of(card, arguments).precision


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_other_precision_is_made_of_a_quantized_file(kind: str, precision: Precision, tmp_path: Path) -> None:
    source = load_file(quantised(kind, tmp_path))
    with pytest.raises(UsageError, match=rf"theirs.onnx: already .*remove --{precision} .*export the fp32 original"):
        source.require_convertible(precision, stored_in=precision)
    source.require_convertible("fp32", stored_in="fp32")


def test_quantized_layers_inside_a_branch_count() -> None:
    steps = {"a": np.float32(0.02), "zero": np.int8(0), "choice": np.array(True)}
    value = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    integers = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["f", "a", "zero"], ["fq"]),
            helper.make_node("DequantizeLinear", ["fq", "a", "zero"], ["fd"]),
            helper.make_node("DequantizeLinear", ["wq", "s"], ["w"]),
            helper.make_node("Gemm", ["fd", "w"], ["branch"], transB=1),
        ],
        "then",
        [],
        [value],
    )
    floats = helper.make_graph([helper.make_node("Gemm", ["f", "plain"], ["branch"], transB=1)], "else", [], [value])
    node = helper.make_node("If", ["choice"], ["y"], then_branch=integers, else_branch=floats)
    found = recognise(linear([node], WEIGHTS | steps | {"plain": np.zeros((10, 192), np.float32)}))
    assert found is not None
    assert (found.kind, found.num_quantised_layers, found.num_layers) == ("qdq", 1, 2)


def test_a_normalization_written_as_dequantization_of_the_input_is_no_quantization() -> None:
    model = network(data_type=TensorProto.UINT8)
    del model.graph.node[0]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["given", "s", "z"], ["float"]))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    )
    assert recognise(model) is None
    assert recognise(network()) is None


@pytest.mark.parametrize("arguments", [("--int8",), ("--int8", "--calibrate", "random"), ("--fp16",)])
def test_the_command_refuses_in_one_line_before_it_calibrates(
    arguments: tuple[str, ...], tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    quantised("qdq", tmp_path)
    done = resx("export", "theirs.onnx", *arguments, "-q")
    assert done.code == 2, done.err
    assert done.err.splitlines() == [
        f"error: theirs.onnx: already int8: 2 of 2 layers compute in int8 (static, QDQ); remove {arguments[0]} to "
        "publish it unchanged, or export the fp32 original"
    ]


def test_int8_of_fp16_weights_and_of_a_graph_without_layers_is_refused(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    half = load_file(saved(network(), tmp_path, "single"))
    half.write(tmp_path / "half.onnx", "fp16", "float32", "cpu")
    done = resx("export", "half.onnx", "--int8", "--calibrate", "random", "-q")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "has 16-bit weights" in done.err

    ends = {"first": np.array([0]), "last": np.array([10]), "axis": np.array([1])}
    saved(linear([helper.make_node("Slice", ["f", *ends], ["y"])], ends), tmp_path, "cut")
    done = resx("export", "cut.onnx", "--int8", "--calibrate", "random", "-q")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "no convolution or matrix product" in done.err
