"""What this machine computes and moves at most, measured by small models in the runtime that is profiled.

Arithmetic: a matrix product that fits the caches. Memory: one ReLU over more than the caches hold.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from resx.runtimes.profiling.counters import Feed

GEMM_SIZES = (512, 1024)
"""Whichever is faster counts: the small one fits a core's cache, the large one has more for each thread to do."""
STREAM_FLOATS = 16 * 1024 * 1024
STREAM_NAME = f"Relu over {4 * STREAM_FLOATS // 2**20} MiB"
StoredAs: TypeAlias = Literal["fp32", "int8"]


def gemm(stored_as: StoredAs, size: int) -> tuple[bytes, Feed]:
    """Return a model of one matrix product with constant weights, and what it is run on."""
    numbers, shape = np.random.default_rng(0), (size, size)
    if stored_as == "fp32":
        weight = numpy_helper.from_array(numbers.standard_normal(shape, dtype=np.float32), "weight")
        nodes = [helper.make_node("MatMul", ["a", "weight"], ["y"], name="gemm")]
        model = _model(nodes, TensorProto.FLOAT, shape, [weight])
        return model, {"a": numbers.standard_normal(shape, dtype=np.float32)}
    constants = {
        "weight": numbers.integers(-64, 64, shape, dtype=np.int8), "weight_scale": np.float32(0.01),
        "weight_zero": np.int8(0), "scale": np.float32(0.02), "zero": np.uint8(128), "y_scale": np.float32(1),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "scale", "zero"], ["a_float"], name="a_dequantize"),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["weight_float"], name="weight_dequantize"
        ),
        helper.make_node("MatMul", ["a_float", "weight_float"], ["y_float"], name="gemm"),
        helper.make_node("QuantizeLinear", ["y_float", "y_scale", "zero"], ["y"], name="y_quantize"),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return _model(nodes, TensorProto.UINT8, shape, tensors), {"a": numbers.integers(0, 256, shape, dtype=np.uint8)}


def stream() -> tuple[bytes, Feed]:
    """Return a model that reads and writes memory and computes next to nothing, and what it is run on."""
    nodes = [helper.make_node("Relu", ["a"], ["y"], name="stream")]
    return _model(nodes, TensorProto.FLOAT, (1, STREAM_FLOATS), []), {"a": np.ones((1, STREAM_FLOATS), np.float32)}


def _model(nodes: list[Any], kind: int, shape: tuple[int, int], constants: list[Any]) -> bytes:
    taken, given = (helper.make_tensor_value_info(name, kind, shape) for name in ("a", "y"))
    graph = helper.make_graph(nodes, "peak", [taken], [given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())
