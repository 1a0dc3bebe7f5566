"""Small ONNX files that resx did not export: what others put into a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resx.card.origin import FileArguments
from resx.export.sources.onnx_files import LoadedFile
from resx.export.sources.source import NOTHING_GIVEN, load_source

Axis = int | str


def identities(path: Path, elements: dict[str, int], shape: Sequence[Axis]) -> Path:
    """Write `y_NAME = NAME` for each name and its element type."""
    nodes = [helper.make_node("Identity", [name], [f"y_{name}"]) for name in elements]
    inputs: dict[str, tuple[int, Sequence[Axis]]] = {name: (kind, shape) for name, kind in elements.items()}
    return _write(path, nodes, inputs, {f"y_{name}": tensor for name, tensor in inputs.items()})


def identity(path: Path, element: int, shape: Sequence[Axis]) -> Path:
    """Write `y = x`, of any element type and shape."""
    return _write(path, [helper.make_node("Identity", ["x"], ["y"])], {"x": (element, shape)}, {"y": (element, shape)})


def sum_and_half(path: Path) -> Path:
    """Write `total [n] = sum(x, 1)` and `half [n, k] = x / 2` of x [n, k]: two outputs, one of them a number a row."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0),
        helper.make_node("Div", ["x", "two"], ["half"]),
    ]
    float32 = TensorProto.FLOAT
    outputs: dict[str, tuple[int, Sequence[Axis]]] = {"total": (float32, ["n"]), "half": (float32, ["n", "k"])}
    return _write(path, nodes, {"x": (float32, ["n", "k"])}, outputs, [two, axes])


def lookup(path: Path) -> Path:
    """Write `y = table[x]` for x [n, 1] in 0..3: another index is an error of the run."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 10.0, 20.0, 30.0])
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)]
    return _write(path, nodes, {"x": (TensorProto.INT64, ["n", 1])}, {"y": (TensorProto.FLOAT, ["n", 1])}, [table])


def pairs(path: Path) -> Path:
    """Write `y` [n / 2, 2] = the rows of x [n, 1], two in each; an odd number of rows is an error."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2])
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    float32 = TensorProto.FLOAT
    return _write(path, [node], {"x": (float32, ["n", 1])}, {"y": (float32, ["m", 2])}, [shape])


def rows_below(path: Path, limit: float) -> Path:
    """Write `y` = those rows of x [n, 3] whose numbers are all below the limit."""
    constant = helper.make_tensor("limit", TensorProto.FLOAT, [], [limit])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["most"], keepdims=0),
        helper.make_node("Less", ["most", "limit"], ["is_below"]),
        helper.make_node("Compress", ["x", "is_below"], ["y"], axis=0),
    ]
    float32 = TensorProto.FLOAT
    return _write(path, nodes, {"x": (float32, ["n", 3])}, {"y": (float32, ["m", 3])}, [constant, axes])


def channel_means(path: Path, element: int = TensorProto.FLOAT, sides: Sequence[Axis] = ("h", "w")) -> Path:
    """Write `y [n, 3]` = the means of an image x [n, 3, h, w], in FP32 whatever x is."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["x32"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    return _write(path, nodes, {"x": (element, ["n", 3, *sides])}, {"y": (TensorProto.FLOAT, ["n", 3])})


def quantised(path: Path, kind: str) -> Path:
    """Write a convolution in int8 over an image x [n, 3, 8, 8], by QuantizeLinear and DequantizeLinear.

    `kind` is int8 (symmetric), uint8, shifted (a zero point of 3) or bias (one of 32 bits).
    """
    element = TensorProto.UINT8 if kind == "uint8" else TensorProto.INT8
    zero = {"uint8": 128, "shifted": 3}.get(kind, 0)
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.02]),
        helper.make_tensor("zero", element, [], [zero]),
        helper.make_tensor("weights", TensorProto.INT8, [2, 3, 8, 8], [index % 7 - 3 for index in range(2 * 3 * 64)]),
        helper.make_tensor("none", TensorProto.INT8, [], [0]),
        helper.make_tensor("bias", TensorProto.INT32, [2], [5, 9]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "none"], ["wd"]),
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["bd"]),
        helper.make_node("Conv", ["xd", "wd", "bd"] if kind == "bias" else ["xd", "wd"], ["sums"]),
        helper.make_node("Flatten", ["sums"], ["y"]),
    ]
    if kind != "bias":
        del constants[4], nodes[3]
    float32 = TensorProto.FLOAT
    return _write(path, nodes, {"x": (float32, ["n", 3, 8, 8])}, {"y": (float32, ["n", 2])}, constants)


def backend_lines(backend: str) -> str:
    """Return the lines of config.pbtxt that say which backend computes `model.onnx`."""
    file = 'default_model_filename: "model.onnx"\n' if backend == "openvino" else ""
    return f'backend: "{backend}"\n{file}'


def configure(
    model_folder: Path,
    kind: str,
    dims: Sequence[int],
    output: str = "FP32",
    output_dims: str = "3",
    backend: str = "onnxruntime",
) -> None:
    """Write the config.pbtxt of a file from x to y, by Triton's names of their types."""
    (model_folder / "config.pbtxt").write_text(
        f'name: "{model_folder.name}"\n{backend_lines(backend)}max_batch_size: 4\n'
        f'input [{{ name: "x" data_type: TYPE_{kind} dims: {[*dims]} }}]\n'
        f'output [{{ name: "y" data_type: TYPE_{output} dims: [{output_dims}] }}]\n'
    )


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Axis]]],
    outputs: dict[str, tuple[int, Sequence[Axis]]],
    constants: list[onnx.TensorProto] | None = None,
) -> Path:
    def described(tensors: dict[str, tuple[int, Sequence[Axis]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    graph = helper.make_graph(nodes, "g", described(inputs), described(outputs), constants or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def network(
    *,
    shape: tuple[int | str, ...] = ("batch", 3, 8, 8),
    data_type: int = TensorProto.FLOAT,
    opset: int = 17,
    softmax: bool = False,
    scale: float = 0.1,
    classes: int = 7,
) -> ModelProto:
    """A convolution, pooling and a linear layer with random weights; without an image only the last."""
    random = np.random.default_rng(0)
    nodes, channels = [], shape[1]
    assert isinstance(channels, int)
    weights = {"w2": random.normal(0, scale, (classes, 5 if len(shape) == 4 else channels)).astype(np.float32)}
    source = "given"
    if data_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["given"], ["float"], to=TensorProto.FLOAT))
        source = "float"
    if len(shape) == 4:
        weights["w1"] = random.normal(0, scale, (5, channels, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, "w1"], ["c"], pads=[1, 1, 1, 1], name="first"))
        nodes.append(helper.make_node("Relu", ["c"], ["r"]))
        nodes.append(helper.make_node("GlobalAveragePool", ["r"], ["p"]))
        nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
        source = "f"
    nodes.append(helper.make_node("Gemm", [source, "w2"], ["scores"], transB=1))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["answer"], axis=1))
    graph = helper.make_graph(
        nodes,
        "somebody's",
        [helper.make_tensor_value_info("given", data_type, shape)],
        [helper.make_tensor_value_info("answer" if softmax else "scores", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"author": "somebody"})
    return model


def saved(model: ModelProto, folder: Path, name: str = "theirs") -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def load_file(path: Path, arguments: FileArguments = NOTHING_GIVEN, image_size: int | None = None) -> LoadedFile:
    """Load it as `resx export` does."""
    source = load_source(str(path), weights="none", seed=0, image_size=image_size, file=arguments)
    assert isinstance(source, LoadedFile)
    return source
