"""What rounding to fp16 does to a file by itself, computed in fp32 arithmetic, the same on every processor.

As `resx.export.checks.rounding` does to a network: weights, and what each node gives, are cast to fp16 and back.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resx.errors import ExportError, first_line


def round_file(model: ModelProto) -> ModelProto:
    """Return a copy whose weights, and whose nodes' outputs, are rounded to fp16 and kept in fp32.

    Graphs within nodes are left as they are.

    Raises:
        ExportError: onnx cannot tell the types of its tensors.
    """
    try:
        known = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # the inference's errors have no base of their own
        raise ExportError(f"onnx cannot determine the types of the file's tensors: {first_line(error)}") from error
    described = (*known.graph.value_info, *known.graph.output)
    floats = {value.name for value in described if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    rounded = ModelProto()
    rounded.CopyFrom(model)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_round(tensor))
    nodes: list[NodeProto] = []
    for node in rounded.graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in floats and node.op_type != "Constant":
                exact, narrow = f"{name}/exact", f"{name}/16"
                node.output[place] = exact
                nodes.append(helper.make_node("Cast", [exact], [narrow], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [narrow], [name], to=TensorProto.FLOAT))
    del rounded.graph.node[:]
    rounded.graph.node.extend(nodes)
    return rounded


def _round(tensor: TensorProto) -> TensorProto:
    with np.errstate(over="ignore"):  # what fp16 cannot hold shows in the answers
        values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
    return numpy_helper.from_array(values, tensor.name)
