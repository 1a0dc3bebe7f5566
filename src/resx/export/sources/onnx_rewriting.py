"""What is changed in a third party's graph: one output kept, weights made constants, fp16, a newer opset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from resx.errors import ExportError, UsageError, first_line
from resx.runtimes import onnx_reader
from resx.streams import silence_library

_WEIGHTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_QDQ_OPSET = 13
"""The first that quantises per channel."""


def keep_output(model: ModelProto, name: str, path: Path) -> None:
    """Leave one output in the graph, and only the nodes, weights and inputs that it needs.

    Raises:
        UsageError: the graph has no such output.
    """
    graph = model.graph
    outputs = {value.name: value for value in graph.output}
    if name not in outputs:
        raise UsageError(f"{path}: has no output {name}; give one of {', '.join(outputs)}")
    if len(outputs) == 1:
        return
    needed, nodes = {name}, list[NodeProto]()
    for node in reversed(graph.node):  # a valid graph's nodes come after those that they use
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_used([node]))
    made = {output for node in nodes for output in node.output}
    _set(graph.output, [outputs[name]])
    _set(graph.node, reversed(nodes))
    _set(graph.input, [value for value in graph.input if value.name in needed])
    _set(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _set(graph.sparse_initializer, [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed])
    _set(graph.value_info, [value for value in graph.value_info if value.name in made])


def make_constants(model: ModelProto) -> None:
    """Make all weights initializers, and none an input: a runtime may then fold them, which it must not do to an input.

    Some converters write weights as Constant nodes, where nothing that quantizes looks for them.
    """
    graph = model.graph
    written = {node.output[0]: _weight_in(node) for node in graph.node if node.op_type == "Constant"}
    weights = {name: tensor for name, tensor in written.items() if tensor is not None}
    _set(graph.node, [node for node in graph.node if not (node.op_type == "Constant" and node.output[0] in weights)])
    for name, tensor in weights.items():
        graph.initializer.append(tensor)
        graph.initializer[-1].name = name
    _set(graph.input, onnx_reader.given_inputs(model))
    used = {*_used(graph.node), *(value.name for value in graph.output)}
    _set(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    model.ir_version = max(model.ir_version, 4)


def _weight_in(node: NodeProto) -> TensorProto | None:
    """Return the weight that a Constant node holds; None: it holds something else."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type in _WEIGHTS:
            return attribute.t
    return None


def require_valid(model: ModelProto, path: Path) -> None:
    """Check a file that somebody else made.

    Raises:
        UsageError: it is no valid ONNX, or newer than the onnx package here.
    """
    newest = onnx.defs.onnx_opset_version()
    version = onnx_reader.opset(model) or newest
    if version > newest:
        raise UsageError(
            f"{path}: opset {version}, but onnx {onnx.__version__} supports {newest} at most; upgrade onnx"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise UsageError(f"{path}: not a valid ONNX model: {first_line(error)}") from error


def half(model: ModelProto, path: Path) -> ModelProto:
    """Return the graph with weights and computation in fp16, input and output as before.

    Raises:
        ExportError: onnxruntime could not convert it.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    try:
        with silence_library():
            converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
            converted.topological_sort()  # the converter puts its casts last
        return name_nodes(converted.model)
    except Exception as error:
        raise ExportError(f"{path}: onnxruntime could not convert it to fp16: {first_line(error)}") from error


def for_int8(model: ModelProto, path: Path) -> ModelProto:
    """Return the graph with named nodes, in an opset that can be quantised per channel.

    Raises:
        ExportError: onnx could not convert it.
    """
    version = onnx_reader.opset(model)
    if version >= _QDQ_OPSET:
        return name_nodes(model)
    try:
        return name_nodes(onnx.version_converter.convert_version(model, _QDQ_OPSET))
    except Exception as error:
        raise ExportError(
            f"{path}: opset {version} cannot be converted to opset {_QDQ_OPSET}, which int8 needs: {first_line(error)}"
        ) from error


def name_nodes(model: ModelProto) -> ModelProto:
    """Give nodes without a name one: layers that stay in fp32 are told by name."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _used(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield the names that nodes read, and graphs within them; those that such a graph makes itself do no harm."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _read_by(graph)


def _read_by(graph: GraphProto) -> Iterator[str]:
    yield from _used(graph.node)
    yield from (value.name for value in graph.output)


def _set(field: Iterable[object], values: Iterable[object]) -> None:
    kept = list(values)
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
