"""Recognize a graph that is quantized already, whoever made it.

    qdq          QuantizeLinear and DequantizeLinear around fp32 operators, which the runtime fuses to integer ones
    qoperator    operators on integers: QLinearConv, QGemm, ConvInteger, ... (onnxruntime's QOperator form)
    dynamic      activations get their range when the model runs, over the whole batch, so that an image's answer
                 depends on the images beside it (DynamicQuantizeLinear, onnxruntime's quantize_dynamic)
    weight-only  weights are stored in few bits, the layers compute in floating point (MatMulNBits)

Subgraphs and local functions count too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeAlias

from resx.values import FrozenModel

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Kind: TypeAlias = Literal["qdq", "qoperator", "dynamic", "weight-only"]

_LAYERS = {"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
_DYNAMIC_LAYERS = {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_INTEGER_LAYERS = {
    "QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger",
    "MatMulIntegerToFloat", "MatMulInteger16", "QAttention", "QOrderedMatMul", "QOrderedGelu", "QOrderedAttention",
}  # fmt: skip
_FEW_BITS_LAYERS = {"MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "QMoE", "GatherBlockQuantized"}
_SAME_VALUES = {"Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Cast", "Flatten"}


class QuantisedGraph(FrozenModel):
    """What is quantized in a graph."""

    kind: Kind
    num_quantised_layers: int
    """Layers that compute on integers; for weight-only, those whose weights are stored in few bits."""
    num_layers: int
    """Convolutions and matrix products, quantized or not."""

    @property
    def is_dynamic(self) -> bool:
        """Whether ranges are taken over the batch as it comes."""
        return self.kind == "dynamic"

    @property
    def computes_in_int8(self) -> bool:
        """Whether any layer computes on integers."""
        return self.kind != "weight-only" and self.num_quantised_layers > 0

    @property
    def text(self) -> str:
        """What a person should know of it."""
        how = {"qdq": "static, QDQ", "qoperator": "static, QOperator", "dynamic": "dynamic, per batch"}
        count = f"{self.num_quantised_layers} of {self.num_layers} layers"
        if self.kind == "weight-only":
            return f"{count} with quantized weights, computed in floating point"
        return f"{count} compute in int8 ({how[self.kind]})"


def recognise(model: ModelProto) -> QuantisedGraph | None:
    """Return what is quantized in a model; None if nothing is.

    A DequantizeLinear that only scales the model's own input, as some put their normalization, does not count.
    """
    nodes = list(_nodes(model))
    operators = {node.op_type for node in nodes}
    made_by = {output: node for node in nodes for output in node.output}
    constants = {tensor.name for graph in _graphs(model) for tensor in graph.initializer}
    constants |= {output for node in nodes if node.op_type == "Constant" for output in node.output}
    integer = [node for node in nodes if node.op_type in _INTEGER_LAYERS | _DYNAMIC_LAYERS]
    few_bits = [node for node in nodes if node.op_type in _FEW_BITS_LAYERS]
    plain = [node for node in nodes if node.op_type in _LAYERS]
    read = [[_is_quantised(name, made_by, constants) for name in node.input[:2]] for node in plain]
    num_layers = len(integer) + len(few_bits) + len(plain)
    in_int8 = len(integer) + sum(len(inputs) == 2 and all(inputs) for inputs in read)
    if "DynamicQuantizeLinear" in operators or operators & _DYNAMIC_LAYERS:
        return QuantisedGraph(kind="dynamic", num_quantised_layers=in_int8, num_layers=num_layers)
    if integer or any(name.startswith("QLinear") for name in operators):
        return QuantisedGraph(kind="qoperator", num_quantised_layers=in_int8, num_layers=num_layers)
    if any(node.op_type == "QuantizeLinear" and not _is_constant(node.input[0], made_by, constants) for node in nodes):
        return QuantisedGraph(kind="qdq", num_quantised_layers=in_int8, num_layers=num_layers)
    stored = any(
        node.op_type == "DequantizeLinear" and _is_constant(node.input[0], made_by, constants) for node in nodes
    )
    if few_bits or stored:
        of_weights = len(few_bits) + sum(any(inputs[1:]) for inputs in read)
        return QuantisedGraph(kind="weight-only", num_quantised_layers=of_weights, num_layers=num_layers)
    return None


def _is_quantised(name: str, made_by: dict[str, NodeProto], constants: set[str]) -> bool:
    """Say whether a tensor comes from quantized values, through what changes only its shape."""
    node = made_by.get(name)
    while node is not None and node.op_type in _SAME_VALUES:
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return False
    return node.input[0] in made_by or node.input[0] in constants


def _is_constant(name: str, made_by: dict[str, NodeProto], constants: set[str]) -> bool:
    """Say whether a tensor depends on nothing but constants."""
    waiting, seen = [name], set[str]()
    while waiting:
        current = waiting.pop()
        if current in constants or not current or current in seen:
            continue
        seen.add(current)
        if current not in made_by:
            return False
        waiting += made_by[current].input
    return True


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    yield from _below([model.graph])
    for function in model.functions:
        yield from _below(_subgraphs(function.node))


def _below(graphs: Iterable[GraphProto]) -> Iterator[GraphProto]:
    for graph in graphs:
        yield graph
        yield from _below(_subgraphs(graph.node))


def _subgraphs(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    return chain(
        chain.from_iterable(graph.node for graph in _graphs(model)),
        chain.from_iterable(function.node for function in model.functions),
    )
