"""Which layers int8 harms, and the fewest that must stay in fp32.

Rounding a tensor to 8 bits loses, in each channel, a part of its power; a channel that is much smaller than
the others of its tensor is lost altogether. A layer's error is the worst of its input's, its weight's and its
output's, mean over the channels, from the fp32 file's own values: what came in wrong is not its fault. How
many of the worst have to stay in fp32 is found by measuring files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto

from resx.card.precision import KeptLayer
from resx.export.graph.onnx_writer import WEIGHTED
from resx.machine import usable_cores
from resx.runtimes.onnxruntime_model import session_options

_MAX_TAKEN_OUT = 16

Array: TypeAlias = npt.NDArray[Any]


def rank_layers(prepared: Path, quantised: ModelProto, inputs: Sequence[Array]) -> list[KeptLayer]:
    """Return the fp32 file's layers, the one that suffers most from 8 bits first.

    Args:
        prepared: the fp32 file that `quantised` was made of.
        quantised: tells how each tensor is rounded.
        inputs: batches as the files take them.
    """
    model = onnx.load(prepared)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    lost = _lost_activations(model, _roundings(quantised), inputs)
    behind = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    layers = []
    for node in model.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        ends = (node.input[0], node.output[0], behind.get(node.output[0], ""))
        error = max(lost.get(name, 0.0) for name in ends)
        if node.input[1] in weights:
            error = max(error, _lost_weight(node, onnx.numpy_helper.to_array(weights[node.input[1]])))
        layers.append(KeptLayer(layer=node.name, error=error))
    return sorted(layers, key=lambda layer: -(layer.error or 0.0))


def fewest(worst_first: Sequence[str], passes: Callable[[Sequence[str]], bool]) -> tuple[list[str], int] | None:
    """Return the layers to keep in fp32 and how many files were measured; None if all of them do not suffice.

    The length of the ranking's shortest prefix that passes is found by halving; then layers that the others
    made superfluous are taken out again, one at a time. Without any layer kept the file is known to fail.
    """
    if not worst_first or not passes(worst_first):
        return None
    num_tried = 1
    fails, holds = 0, len(worst_first)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        num_tried += 1
        fails, holds = (fails, middle) if passes(worst_first[:middle]) else (middle, holds)
    kept = list(worst_first[:holds])
    # The last one is needed: the prefix without it failed.
    for layer in kept[-2::-1][:_MAX_TAKEN_OUT]:
        fewer = [other for other in kept if other != layer]
        num_tried += 1
        if passes(fewer):
            kept = fewer
    return kept, num_tried


def _roundings(quantised: ModelProto) -> dict[str, tuple[float, int, int, int]]:
    """Return of each activation that is rounded: scale, zero point, least and largest integer."""
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    found = {}
    for node in quantised.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        if scale.size > 1:  # per channel: a weight behind a node that hands it on
            continue
        limits = np.iinfo(zero.dtype)
        found[node.input[0]] = (float(scale.item()), int(zero.item()), int(limits.min), int(limits.max))
    return found


def _lost_activations(
    model: ModelProto, roundings: Mapping[str, tuple[float, int, int, int]], inputs: Sequence[Array]
) -> dict[str, float]:
    """Return the part of its power that each tensor loses, mean over its channels."""
    names = sorted({name for node in model.graph.node for name in node.output} & set(roundings))
    run = _expose(model, names)
    noise: dict[str, Array] = {}
    signal: dict[str, Array] = {}
    for batch in inputs:
        for name, tensor in zip(names, run(batch), strict=True):
            scale, zero, least, largest = roundings[name]
            rounded = (np.clip(np.rint(tensor / scale) + zero, least, largest) - zero) * scale
            axes = tuple(axis for axis in range(tensor.ndim) if axis != 1)
            noise[name] = noise.get(name, 0.0) + np.square(rounded - tensor, dtype=np.float64).sum(axes)
            signal[name] = signal.get(name, 0.0) + np.square(tensor, dtype=np.float64).sum(axes)
    return {name: _lost_part(noise[name], signal[name]) for name in names}


def _lost_weight(node: NodeProto, weight: Array) -> float:
    """Return the part of its power that a weight loses to 8 bits per output channel."""
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    rows = weight if node.op_type == "Conv" or is_transposed else weight.swapaxes(0, 1)
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    scale = np.maximum(np.abs(rows).max(1, keepdims=True) / 127, np.finfo(np.float64).tiny)
    return _lost_part(np.square(np.rint(rows / scale) * scale - rows).sum(1), np.square(rows).sum(1))


def _lost_part(noise: Array, signal: Array) -> float:
    """Return noise over signal, at most all of it, mean over the channels that hold anything."""
    alive = signal > 0
    return float(np.minimum(1.0, noise[alive] / signal[alive]).mean()) if alive.any() else 0.0


def _expose(model: ModelProto, names: Sequence[str]) -> Callable[[Array], list[Array]]:
    """Return a function that runs the model and gives these tensors."""
    opened = ModelProto()
    opened.CopyFrom(model)
    known = {value.name for value in opened.graph.output}
    for name in names:
        if name not in known:
            opened.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        opened.SerializeToString(), session_options(usable_cores()), providers=["CPUExecutionProvider"]
    )

    def run(batch: Array) -> list[Array]:
        tensors: list[Array] = session.run(list(names), {session.get_inputs()[0].name: batch})
        return tensors

    return run
