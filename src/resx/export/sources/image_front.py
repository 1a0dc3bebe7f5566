"""Nodes in front of a third party's graph that make its input of pixels: UINT8 [N, 3, H, W] in the order R, G, B.

    Cast, Div by 255, Sub the mean, Div by the standard deviation, Gather the channels, Transpose

Those that do nothing for a file are left out. They compute in fp32 whatever the graph behind them computes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resx.card.signature import Signature
from resx.errors import UsageError, first_line
from resx.runtimes import onnx_reader
from resx.zoo.spec import Channels

_OPSET = 7
"""The first in which a mean of [3, 1, 1] is subtracted from [N, 3, H, W] without further ado."""
_CONVERTED = 13


def put_in_front(model: ModelProto, own: Signature, taken: Signature, path: Path) -> ModelProto:
    """Return the model behind nodes that prepare pixels.

    Args:
        model: of the file; changed.
        own: what it takes by itself.
        taken: what it takes behind those nodes (`Signature.with_pixel_input`).
        path: of the file, for messages.

    Raises:
        UsageError: its opset is too old, and onnx cannot convert it.
    """
    if onnx_reader.opset(model) < _OPSET:
        model = _convert(model, path)
    graph = model.graph
    (image,) = [value for value in onnx_reader.given_inputs(model) if value.name == own.input_name]
    batch = image.type.tensor_type.shape.dim[0]
    _make_room(graph, taken.input_name)
    front = _Front(given=taken.input_name, names=set(_names(graph)))
    if own.input_type == "float32":
        _add_scaling(front, own)
    if own.channels == "bgr":
        order = front.constant("order", np.array([2, 1, 0], np.int64))
        front.add("Gather", "reorder", [order], axis=1)
    if own.layout == "nhwc":
        front.add("Transpose", "channels_last", perm=[0, 2, 3, 1])
    nodes = front.ending_in(own.input_name)
    kept = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(kept)
    image.name = taken.input_name
    image.type.tensor_type.elem_type = TensorProto.UINT8
    for dim, size in zip(image.type.tensor_type.shape.dim[1:], taken.input_dims, strict=True):
        dim.dim_value = size
    assert image.type.tensor_type.shape.dim[0] == batch
    return model


@dataclass(kw_only=True)
class _Front:
    """A chain of nodes behind one another, and their constants."""

    given: str
    """The tensor that the next node takes."""
    names: set[str]
    """Of tensors and nodes, all of them taken."""
    nodes: list[NodeProto] = field(default_factory=list)

    def add(self, operator: str, name: str, others: list[str] | None = None, **attributes: Any) -> None:
        """Add a node that takes what the last one gave, and other tensors."""
        made = self._free(name)
        inputs = [self.given, *(others or [])]
        self.nodes.append(helper.make_node(operator, inputs, [made], name=f"{made}_node", **attributes))
        self.given = made

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant and return its name; as a node, because initializers are a file's weights."""
        made = self._free(name)
        tensor = numpy_helper.from_array(value, made)
        self.nodes.append(helper.make_node("Constant", [], [made], name=f"{made}_node", value=tensor))
        return made

    def ending_in(self, name: str) -> list[NodeProto]:
        """Return the nodes, the last of which gives a tensor of this name."""
        self.nodes[-1].output[0] = name
        return self.nodes

    def _free(self, name: str) -> str:
        made = _free_name(f"resx_{name}", self.names)
        self.names |= {made, f"{made}_node"}
        return made


def _add_scaling(front: _Front, own: Signature) -> None:
    assert own.mean is not None
    assert own.std is not None
    front.add("Cast", "float", to=TensorProto.FLOAT)
    if own.pixel_max == 1:
        front.add("Div", "scaled", [front.constant("white", np.array(255, np.float32))])
    if any(own.mean):
        front.add("Sub", "centered", [front.constant("mean", _by_channel(own.mean))])
    if any(value != 1 for value in own.std):
        front.add("Div", "normalized", [front.constant("std", _by_channel(own.std))])


def _by_channel(values: Channels) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(3, 1, 1)


def _convert(model: ModelProto, path: Path) -> ModelProto:
    try:
        return onnx.version_converter.convert_version(model, _CONVERTED)
    except Exception as error:  # the converter's errors have no base of their own
        raise UsageError(
            f"{path}: opset {onnx_reader.opset(model)} cannot be converted to opset {_CONVERTED}, which a uint8 input "
            f"needs ({first_line(error)}); use --input float32"
        ) from error


def _make_room(graph: GraphProto, name: str) -> None:
    """Rename a tensor inside the graph that has the name of the new input."""
    taken = set(_names(graph))
    if name not in taken:
        return
    other = _free_name(name, taken)
    for inner in _graphs(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                names[:] = [other if one == name else one for one in names]
        for value in (*inner.initializer, *inner.value_info, *inner.input, *inner.output):
            value.name = other if value.name == name else value.name
        for sparse in inner.sparse_initializer:
            sparse.values.name = other if sparse.values.name == name else sparse.values.name


def _free_name(name: str, taken: set[str]) -> str:
    return next(one for number in range(len(taken) + 1) if (one := f"{name}_{number}" if number else name) not in taken)


def _names(graph: GraphProto) -> Iterator[str]:
    """Yield the names of all tensors and nodes."""
    for inner in _graphs(graph):
        for node in inner.node:
            yield from (node.name, *node.input, *node.output)
        yield from (value.name for value in (*inner.initializer, *inner.value_info, *inner.input, *inner.output))
        yield from (sparse.values.name for sparse in inner.sparse_initializer)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)
