"""What goes wrong between a network and its file, each as a function that does it.

A `GraphFault` changes a written graph, as a converter with a mistake would; a `NetworkFault` changes the network or
its spec before they are written, as an exporter would that reads them wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from torch import nn

from resx.zoo.spec import ModelSpec

GraphFault: TypeAlias = Callable[[ModelProto], None]
NetworkFault: TypeAlias = Callable[[nn.Module, ModelSpec], ModelSpec]


def change(path: Path, fault: GraphFault) -> None:
    """Do something to a file."""
    model = onnx.load(path)
    fault(model)
    path.write_bytes(model.SerializeToString())


def layer(model: ModelProto, operator: str, number: int) -> tuple[NodeProto, TensorProto]:
    """Return the node and its weight."""
    node = [node for node in model.graph.node if node.op_type == operator][number]
    return node, next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])


def changed_weight(
    change_values: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], number: int = 2, operator: str = "Conv"
) -> GraphFault:
    """Change the values of one layer's weight."""

    def fault(model: ModelProto) -> None:
        _, weight = layer(model, operator, number)
        before = numpy_helper.to_array(weight)
        values = np.ascontiguousarray(change_values(before.astype(np.float32)))
        weight.CopyFrom(numpy_helper.from_array(values.astype(before.dtype), weight.name))

    return fault


def dropped(operator: str, number: int) -> GraphFault:
    """Take a node out and join what is before it with what is behind."""

    def fault(model: ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == operator][number]
        for other in model.graph.node:
            for index, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[index] = node.input[0]
        model.graph.node.remove(node)

    return fault


def dropped_shortcut(model: ModelProto) -> None:
    """Let a sum take its branch twice instead of branch and shortcut."""
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    (*_, last) = sums
    last.input[1] = last.input[0]


def epsilon(value: float) -> NetworkFault:
    """Write batch norms with another epsilon than the network's 1e-5."""

    def fault(network: nn.Module, spec: ModelSpec) -> ModelSpec:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = value
        return spec

    return fault


def normalisation(**wrong: Callable[[ModelSpec], tuple[float, ...]]) -> NetworkFault:
    """Write another mean or standard deviation into the graph."""
    return lambda _network, spec: spec.model_copy(update={field: value(spec) for field, value in wrong.items()})


def _swapped_outputs(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    weight[[0, 1]] = weight[[1, 0]]
    return weight


def _first_is_nan(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    weight.flat[0] = np.nan
    return weight


def through_half(weight: npt.NDArray[Any], scale: float) -> npt.NDArray[Any]:
    """Round as fp16 would if the weight were so much smaller: below 2^-24 nothing is left, below 2^-14 few bits."""
    return (weight * scale).astype(np.float16).astype(np.float32) / np.float32(scale)


FAULTS: Mapping[str, GraphFault | NetworkFault] = {
    "batch norms with epsilon 1e-3": epsilon(1e-3),
    "a convolution left out": dropped("Conv", 2),
    "a ReLU left out": dropped("Relu", -1),
    "a shortcut left out": dropped_shortcut,
    "red and blue swapped": changed_weight(lambda weight: weight[:, ::-1], number=0),
    "two channels of a convolution swapped": changed_weight(_swapped_outputs),
    "mean and deviation swapped": normalisation(mean=lambda spec: spec.std, std=lambda spec: spec.mean),
    "no normalisation": normalisation(mean=lambda _: (0.0, 0.0, 0.0), std=lambda _: (1.0, 1.0, 1.0)),
    "no mean": normalisation(mean=lambda _: (0.0, 0.0, 0.0)),
    "input and output of a square convolution swapped": changed_weight(lambda w: w.transpose(1, 0, 2, 3)),
    "rows and columns of a kernel swapped": changed_weight(lambda weight: weight.transpose(0, 1, 3, 2)),
    "a linear layer read in the wrong order": changed_weight(
        lambda weight: weight.T.reshape(weight.shape), number=0, operator="Gemm"
    ),
    "a weight that underflowed in fp16": changed_weight(lambda weight: through_half(weight, 2.0**-22)),
    "a weight of few bits after fp16": changed_weight(lambda weight: through_half(weight, 2.0**-14)),
    "a weight that is no number": changed_weight(_first_is_nan),
}
NETWORK_FAULTS = {
    "batch norms with epsilon 1e-3",
    "mean and deviation swapped",
    "no normalisation",
    "no mean",
}
