"""Weight scales that leave room for the bias.

A quantized layer adds its bias to the sum of products in 32-bit integers, in steps of input scale x weight scale. A
channel whose weights are almost zero has tiny steps, and a bias that is not tiny overflows: onnxruntime clips it, in
the file (cpu) or when its optimizer quantizes the fp32 bias on loading (gpu). A channel of exact zeros gets steps of
1 x input scale, which may be too coarse for the bias.

So the weights of such a channel get a wider range, in which the bias takes 30 of the 32 bits; the rest is for the
products, whose sum stays below 2^30 up to 33,000 products of 8 bits. Almost all of these weights become 0. Rounding
K weights in steps s = |bias| / (2^30 x input scale) moves the output by K x 255 x input scale x s / 2 = 1.2e-7 K |bias|
at most: less than half a step of an 8-bit output that holds the bias (|bias| / 510), up to K = 16,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto

Array: TypeAlias = npt.NDArray[Any]
Overrides: TypeAlias = dict[str, list[dict[str, float | int]]]
"""By weight, a range for each channel or one for all: `TensorQuantOverrides` of onnxruntime.quantization."""

_LARGEST_BIAS = 2**30
_LARGEST_WEIGHT = 127
_TINY = float(np.finfo(np.float32).tiny)


def widen_weights(model: ModelProto, ranges: Mapping[str, tuple[float, float]]) -> Overrides:
    """Return the ranges of the weights that need another than their own, in the form that onnxruntime takes.

    Also those of grouped transposed convolutions, which onnxruntime cannot quantize per channel: one for all channels.

    Args:
        model: fp32, before it is quantized.
        ranges: of its activations.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    largest: dict[str, Array] = {}  # a weight that several layers share has to suit each of them
    own: dict[str, Array] = {}
    axes: dict[str, int | None] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.input[1] not in tensors:
            continue
        name = node.input[1]
        weight = onnx.numpy_helper.to_array(tensors[name]).astype(np.float64)
        axis = _channel_axis(node)
        is_grouped = node.op_type == "ConvTranspose" and _attribute(node, "group", 1) > 1
        axes[name] = None if is_grouped or axes.get(name, axis) != axis else axis
        others = tuple(index for index in range(weight.ndim) if index != axis)
        own[name] = np.abs(weight).max(others)
        bias = tensors.get(node.input[2]) if len(node.input) > 2 else None
        needed = np.zeros_like(own[name])
        if bias is not None and node.input[0] in ranges:
            steps = np.abs(onnx.numpy_helper.to_array(bias)).astype(np.float64).reshape(-1)
            steps = steps * _LARGEST_WEIGHT / (_LARGEST_BIAS * _scale(ranges[node.input[0]]))
            needed = steps if steps.size == needed.size else np.full_like(needed, steps.max(initial=0.0))
        before = largest.get(name, own[name])
        if before.shape != own[name].shape:  # read along two axes: one range for all
            before = before.max()
        largest[name] = np.maximum(np.maximum(before, own[name]), needed)
    found: Overrides = {}
    for name, channel_axis in axes.items():
        if channel_axis is None:
            found[name] = [_range(float(largest[name].max()))]
        elif (largest[name] > own[name]).any():
            found[name] = [{"axis": channel_axis} | _range(float(bound)) for bound in largest[name]]
    return found


def _range(bound: float) -> dict[str, float | int]:
    return {"rmin": -bound, "rmax": bound, "symmetric": True}


def _scale(bounds: tuple[float, float]) -> float:
    """Return the smallest scale that either target gives an activation of this range."""
    span = max(bounds[1], 0.0) - min(bounds[0], 0.0)
    return span / 255 if span / 255 >= _TINY else 1.0


def _channel_axis(node: NodeProto) -> int:
    """Return the axis of output channels in a layer's weight."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
