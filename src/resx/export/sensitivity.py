"""Which layers int8 harms, and the fewest that must stay in fp32.

Both files are run on the same images with every layer's input and output laid open. With e(t) the power of
tensor t's error over the power of t itself, a layer adds e(output) - e(input): what came in wrong is not its
fault. Layers are ranked by that; how many of the worst have to go back is found by measuring files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto

from resx.export.card import KeptLayer
from resx.export.onnx_file import INPUT, WEIGHTED
from resx.export.runtimes import usable_cores

_DEQUANTISED = "_DequantizeLinear_Output"
_MAX_TAKEN_OUT = 8


def ranked(prepared: Path, quantised: ModelProto, inputs: Sequence[npt.NDArray[Any]]) -> list[KeptLayer]:
    """Return the quantised file's int8 layers, the one that adds most error first.

    Args:
        prepared: the fp32 file that `quantised` was made of.
        quantised: left as it is.
        inputs: batches as the files take them.
    """
    made = {name for node in quantised.graph.node for name in node.output}
    ends: dict[str, tuple[str, str]] = {}  # of each layer: its input and output in the int8 file
    for node in quantised.graph.node:
        output = node.output[0] if node.op_type in WEIGHTED else ""
        if output and node.input[0].endswith(_DEQUANTISED):
            ends[node.name] = (node.input[0], output + _DEQUANTISED if output + _DEQUANTISED in made else output)
    wanted = sorted({name for pair in ends.values() for name in pair})
    error = _relative_errors(onnx.load(prepared), quantised, wanted, inputs)
    layers = [
        KeptLayer(layer=name, added_error=max(0.0, error[output] - error[source]))
        for name, (source, output) in ends.items()
    ]
    return sorted(layers, key=lambda layer: -(layer.added_error or 0.0))


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


def _relative_errors(
    reference: ModelProto, quantised: ModelProto, names: Sequence[str], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, float]:
    """Return of each tensor of the int8 file its error's power over its power in the fp32 file."""
    originals = [name.removesuffix(_DEQUANTISED) for name in names]
    unique = sorted(set(originals))
    expected_of, actual_of = _laid_open(reference, unique), _laid_open(quantised, names)
    noise, signal = np.zeros(len(names)), np.zeros(len(names))
    for batch in inputs:
        expected = dict(zip(unique, expected_of(batch), strict=True))
        for index, (original, actual) in enumerate(zip(originals, actual_of(batch), strict=True)):
            noise[index] += np.square(actual - expected[original], dtype=np.float64).sum()
            signal[index] += np.square(expected[original], dtype=np.float64).sum()
    return {name: float(value) for name, value in zip(names, noise / np.maximum(signal, 1e-30), strict=True)}


def _laid_open(
    model: ModelProto, names: Sequence[str]
) -> Callable[[npt.NDArray[Any]], list[npt.NDArray[np.float32]]]:
    """Return a function that runs the model and gives these tensors."""
    opened = ModelProto()
    opened.CopyFrom(model)
    known = {value.name for value in opened.graph.output}
    for name in names:
        if name not in known:
            opened.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(batch: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        tensors: list[npt.NDArray[np.float32]] = session.run(list(names), {INPUT: batch})
        return tensors

    return run
