"""What TensorRT inside onnxruntime wants of an ONNX file.

Its cache names an engine by names alone, the graph's among them, and by no weight (onnxruntime issues 6455 and 32254).
Where a server keeps all engines in one folder, as NVIDIA's container does, a version with other weights would be
answered with the engine of the version before. So the graph of such a file is named after its contents.

TensorRT computes int8 from QuantizeLinear and DequantizeLinear that are symmetric, with biases in floating point.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from resx.card.quantised_graph import recognise
from resx.errors import UsageError
from resx.runtimes.onnx_reader import write_model

_GRAPH = "resx_"


def name_after_contents(path: Path) -> None:
    """Name a file's graph by the SHA-256 of all else in the file."""
    model = onnx.load(path)
    model.graph.name = ""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    model.graph.name = f"{_GRAPH}{digest[:32]}"
    write_model(model, path)


def require_computable(name: str, model: ModelProto) -> None:
    """Check a file that was quantized before.

    Raises:
        UsageError: TensorRT computes no int8 of this kind.
    """
    found = recognise(model)
    if found is None or found.kind == "weight-only" or (found.kind == "qdq" and _is_symmetric(model)):
        return
    raise UsageError(
        f"--accelerator tensorrt: {name}: {found.text}: TensorRT takes QuantizeLinear and DequantizeLinear with signed "
        "8-bit values, zero points of 0 and floating-point biases; remove the option, or export the fp32 original "
        "with --int8"
    )


def _is_symmetric(model: ModelProto) -> bool:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    quantising = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in quantising:
        zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is not None and (zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any()):
            return False
        values = constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and values is not None and values.data_type != TensorProto.INT8:
            return False
        if node.op_type == "QuantizeLinear" and zero is None:  # without a zero point its values are unsigned
            return False
    return True
