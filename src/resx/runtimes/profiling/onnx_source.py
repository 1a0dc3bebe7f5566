"""An ONNX model as what can be profiled: its graph, its arithmetic and its input."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from resx.errors import UsageError
from resx.runtimes import onnx_reader
from resx.runtimes.profiling.counters import Feed
from resx.runtimes.profiling.measuring import ProfileOptions, Subject
from resx.runtimes.profiling.source_graph import SourceGraph, SourceNode, blocks_of_nodes

_WEIGHT = {
    "Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1,
    "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
}  # fmt: skip
"""Which input holds the weights of what multiplies and adds."""
_DEQUANTISED = "_DequantizeLinear_Output"
_PARAMETER = re.compile(rf"(?:network\.)?([^/]+)\.\w+?(?:_quantized|{_DEQUANTISED})?")


def onnx_subject(
    model: ModelProto, options: ProfileOptions, name: str, *, blocks: Collection[str] | None = None
) -> Subject:
    """Return a model, whose nodes are given names where they lack one, as what can be profiled.

    Args:
        model: with its weights.
        options: the batch, and the image size of an input that leaves it open.
        name: what results and errors call it.
        blocks: the modules that are blocks; None: their names say it (`source_graph`).

    Raises:
        UsageError: its input is none that it can be run on.
    """
    _name_nodes(model)
    shape = _input_shape(model, name, options)
    shapes, weights = _shapes(model, shape), {tensor.name for tensor in model.graph.initializer}
    nodes = [
        SourceNode(
            name=node.name,
            operator=node.op_type,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            module=_module(node, weights),
            is_weighted=node.op_type in _WEIGHT,
            macs=_multiply_adds(node, shapes),
        )
        for node in model.graph.node
    ]
    stores_fp16 = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    source = SourceGraph(nodes=tuple(nodes), blocks=blocks_of_nodes(nodes, blocks), stores_fp16=stores_fp16)
    return Subject(name=name, source=source, content=model.SerializeToString(), feed=_noise(model, shape, name))


def _name_nodes(model: ModelProto) -> None:
    """Give each node a name of its own, as counters go by names."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}"
        seen.add(node.name)


def _input_shape(model: ModelProto, where: str, options: ProfileOptions) -> list[int]:
    taken, *others = onnx_reader.given_inputs(model)
    if others:
        raise UsageError(f"{where}: takes {1 + len(others)} inputs; resx profiles models of one")
    sizes = onnx_reader.declared_dims(taken)
    if not sizes:
        raise UsageError(f"{where}: does not say the shape of its input {taken.name}; export it with shapes")
    if sizes[0] not in (None, options.batch):
        raise UsageError(f"--batch {options.batch}: {where} takes exactly {sizes[0]}; give --batch {sizes[0]}")
    sizes[0] = options.batch
    if options.image_size is not None and len(sizes) == 4:
        sizes[2:] = [options.image_size if size is None else size for size in sizes[2:]]
    if None in sizes:
        raise UsageError(
            f"{where}: leaves sizes of its input open: {onnx_reader.tensor_text(taken)}; give --image-size N, or "
            "export it with fixed sizes"
        )
    return [size or 0 for size in sizes]


def _shapes(model: ModelProto, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that are known, of weights too."""
    sized = ModelProto()
    sized.CopyFrom(model)
    for dim, size in zip(onnx_reader.given_inputs(sized)[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    graph = sized.graph
    with contextlib.suppress(Exception):  # of several kinds; what a runtime refuses too, it refuses with its reason
        graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _multiply_adds(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    place = _WEIGHT.get(node.op_type)
    if place is None:
        return 0
    taken, weight, given = (shapes.get(name) for name in (node.input[0], node.input[place], node.output[0]))
    if not taken or not weight or not given:
        return None
    if node.op_type == "ConvTranspose":
        return math.prod(taken) * math.prod(weight[1:])
    if "Conv" in node.op_type:
        return math.prod(given) * math.prod(weight[1:])
    if "Gemm" in node.op_type:
        return math.prod(given) * math.prod(weight) // given[-1]
    return math.prod(given) * taken[-1]


def _module(node: NodeProto, weights: Collection[str]) -> str | None:
    """Return the module that a node computes, by the names of its weights or else its own; None where it has none."""
    for name in node.input:
        if name in weights or name.endswith(_DEQUANTISED):
            match = _PARAMETER.fullmatch(name)
            if match is not None:
                return match[1]
    if node.op_type not in _WEIGHT:
        return None
    path: list[str] = []  # torch's older exporter: /layer1/layer1.0/conv1/Conv
    for part in node.name.strip("/").split("/")[: -1 if "/" in node.name else None]:
        path = [part] if path and part.startswith(f"{'.'.join(path)}.") else [*path, part]
    return ".".join(path)


def _noise(model: ModelProto, shape: list[int], where: str) -> Feed:
    """Return bytes, or normally distributed numbers."""
    taken = onnx_reader.given_inputs(model)[0]
    kind = onnx.helper.tensor_dtype_to_np_dtype(taken.type.tensor_type.elem_type)
    numbers = np.random.default_rng(0)
    if kind == np.uint8:
        return {taken.name: numbers.integers(0, 256, shape, dtype=np.uint8)}
    if kind in (np.float16, np.float32, np.float64):
        return {taken.name: numbers.standard_normal(shape).astype(kind)}
    raise UsageError(f"{where}: takes {onnx_reader.tensor_text(taken)}; resx profiles models of bytes or floats")
