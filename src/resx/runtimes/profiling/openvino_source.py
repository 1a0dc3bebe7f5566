"""OpenVINO's IR as what can be profiled. Its nodes have the names of the ONNX nodes that they were made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from resx.errors import ExportError, UsageError
from resx.runtimes.openvino_package import load_openvino, reason_of
from resx.runtimes.profiling.measuring import ProfileOptions, Subject
from resx.runtimes.profiling.source_graph import SourceGraph, SourceNode, blocks_of_nodes

_WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


def ir_subject(path: Path, options: ProfileOptions, name: str) -> Subject:
    """Return an .xml file, with its .bin beside it, as what can be profiled.

    Raises:
        ExportError: OpenVINO cannot read it.
        UsageError: its input is none that it can be run on.
        MissingCapability: OpenVINO is missing.
    """
    try:
        model = load_openvino().Core().read_model(str(path))
    except RuntimeError as error:
        raise ExportError(f"{path}: OpenVINO rejects it: {reason_of(error)}") from error
    taken = model.inputs[0]
    shape = taken.get_partial_shape()
    shape[0] = options.batch
    if len(model.inputs) > 1 or shape.is_dynamic:
        raise UsageError(f"{path}: its input is {shape}; resx profiles models of one input whose sizes are known")
    model.reshape({taken.any_name: shape})
    numbers, kind = np.random.default_rng(0), taken.get_element_type().to_dtype()
    sizes = list(shape.to_shape())
    noise = numbers.integers(0, 256, sizes) if kind == np.uint8 else numbers.standard_normal(sizes)
    nodes = [_node(op) for op in model.get_ordered_ops() if op.get_type_name() not in ("Constant", "Parameter")]
    return Subject(
        name=name,
        source=SourceGraph(nodes=tuple(nodes), blocks=blocks_of_nodes(nodes)),
        content=str(path),
        feed={taken.any_name: noise.astype(kind)},
    )


def _node(op: Any) -> SourceNode:
    operator, name = op.get_type_name(), op.get_friendly_name()
    is_weighted = operator in _WEIGHTED
    return SourceNode(
        name=name,
        operator=operator,
        inputs=tuple(value.get_source_output().get_node().get_friendly_name() for value in op.inputs()),
        outputs=(name,),
        module=name.partition("/")[0] if is_weighted else None,
        is_weighted=is_weighted,
        macs=_multiply_adds(op, operator) if is_weighted else 0,
    )


def _multiply_adds(op: Any, operator: str) -> int:
    taken, weight = (list(op.input(place).get_shape()) for place in (0, 1))
    given = list(op.output(0).get_shape())
    if operator == "MatMul":
        return math.prod(given) * taken[-1]
    if operator == "ConvolutionBackpropData":
        return math.prod(taken) * math.prod(weight[1:])
    return math.prod(given) * math.prod(weight[2 if operator == "GroupConvolution" else 1 :])
