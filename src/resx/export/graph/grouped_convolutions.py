"""Put the grouped fp16 convolutions of an ONNX file back to fp32, and leave everything else as it is.

TensorRT 11.2.1 finds no implementation for some grouped fp16 convolutions and fails the whole build
(NVIDIA/TensorRT issue 4838). In fp32, between two casts, they build.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def grouped_half_convolutions(model: ModelProto) -> list[str]:
    """Return the names of the convolutions that have more than one group and fp16 weights."""
    half = _half_initializers(model)
    return [_name(node) for node in model.graph.node if _is_grouped(node) and node.input[1] in half]


def with_grouped_in_fp32(model: ModelProto) -> ModelProto:
    """Return a copy in which those convolutions take, hold and compute fp32; their neighbours still see fp16."""
    rewritten = copy.deepcopy(model)
    graph = rewritten.graph
    half = _half_initializers(rewritten)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if not (_is_grouped(node) and node.input[1] in half):
            nodes.append(node)
            continue
        output = node.output[0]
        wide_input, wide_output = f"{output}.in_fp32", f"{output}.out_fp32"
        nodes.append(
            helper.make_node("Cast", [node.input[0]], [wide_input], name=f"{wide_input}.cast", to=TensorProto.FLOAT)
        )
        node.input[0] = wide_input
        for index in range(1, len(node.input)):
            node.input[index] = _widen(graph, half[node.input[index]])
        node.output[0] = wide_output
        nodes.extend(
            [node, helper.make_node("Cast", [wide_output], [output], name=f"{output}.cast", to=TensorProto.FLOAT16)]
        )
    _replace_nodes(graph, nodes)
    onnx.checker.check_model(rewritten, full_check=True)
    return rewritten


def _half_initializers(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}


def _is_grouped(node: NodeProto) -> bool:
    return node.op_type == "Conv" and any(entry.name == "group" and entry.i > 1 for entry in node.attribute)


def _name(node: NodeProto) -> str:
    return node.name or node.output[0]


def _widen(graph: onnx.GraphProto, tensor: TensorProto) -> str:
    """Add the fp32 form of a weight, once, and return its name."""
    name = f"{tensor.name}.fp32"
    if all(known.name != name for known in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
    return name


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    kept = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    weights = [copy.deepcopy(tensor) for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
