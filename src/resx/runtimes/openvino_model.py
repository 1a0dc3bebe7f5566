"""A model file in OpenVINO on the CPU: an ONNX file, or OpenVINO's own IR (model.xml with model.bin beside it).

What it computes in is asked for and then checked. Left to itself OpenVINO computes fp32 files in bf16 where the
processor can, and takes a hint that it cannot follow without a word.
Source: docs.openvino.ai, CPU device, and the properties of `ov::hint` and `ov::intel_cpu`.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.card.runtime import PrecisionHint
from resx.errors import ExportError, MissingCapability, UsageError
from resx.machine import usable_cores
from resx.runtimes import onnx_reader
from resx.runtimes.answers import rows_of
from resx.runtimes.float_state import keep_float_state, read_float_state
from resx.runtimes.openvino_package import load_openvino, new_core, reason_of, require_bf16

_COMPUTING = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
"""Layers by the plugin's words, which are counted by what they compute in."""


def compile_options(precision_hint: PrecisionHint, threads: int) -> dict[str, Any]:
    """Return the properties that a model is compiled with.

    Args:
        precision_hint: what floating-point layers compute in.
        threads: for one request; never more than this process may run at the same time.
    """
    return {
        "INFERENCE_PRECISION_HINT": precision_hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": min(threads, usable_cores()),
        # Pinned, the threads of two processes sit on the same cores: each begins with the first.
        "ENABLE_CPU_PINNING": False,
        # Numbers below 1.2e-38 are taken for 0: with them each operation takes a hundred times as long.
        "CPU_DENORMALS_OPTIMIZATION": True,
    }


class OpenVinoModel:
    """A model file of one input and one output, compiled by OpenVINO for this processor."""

    def __init__(
        self,
        path: Path,
        *,
        precision_hint: PrecisionHint = "f32",
        threads: int | None = None,
        content: bytes | None = None,
    ) -> None:
        """Open the file, or `content` that was made of it; threads None takes every core that this process may use.

        Raises:
            UsageError: the file is missing or cannot be read.
            ExportError: OpenVINO refuses the file, or it has several inputs or outputs.
            MissingCapability: OpenVINO is missing, or does not compute in what was asked for here.
        """
        self._openvino = load_openvino()
        if precision_hint == "bf16":
            require_bf16()
        model = _runnable(path) if content is None else content
        core = new_core()
        options = compile_options(precision_hint, threads or usable_cores())
        try:
            with keep_float_state():
                self._compiled = core.compile_model(core.read_model(model), "CPU", options)
                self._float_state = read_float_state()
        except Exception as error:  # RuntimeError and others: OpenVINO's errors have no base of their own
            raise ExportError(f"{path}: OpenVINO rejects it: {_refusal(error)}") from error
        _require_one_each(path, self._compiled)
        self.layer_precisions = _layer_precisions(self._compiled)
        """Convolutions and matrix products, counted by what they compute in."""
        _require_precision(path, self._compiled, precision_hint, self.layer_precisions)
        self._request = self._compiled.create_infer_request()
        self._path = path

    def __call__(self, images_NCHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the logits [N, classes]; an output of more axes is flattened.

        Raises:
            ExportError: OpenVINO fails on the input.
            RowsChanged: the answer has another number of rows.
        """
        return rows_of(self.tensor(images_NCHW), len(images_NCHW), self._path)

    def tensor(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the output as the file gives it.

        Raises:
            ExportError: OpenVINO fails on the input.
        """
        try:
            # As a tensor: an array of another type would be cast without a word.
            with keep_float_state(self._float_state):
                self._request.infer([self._openvino.Tensor(np.ascontiguousarray(images))])
        except Exception as error:
            raise ExportError(f"{self._path}: fails on an input {list(images.shape)}: {reason_of(error)}") from error
        return np.array(self._request.get_output_tensor(0).data)


def _runnable(path: Path) -> str | bytes:
    """Return what OpenVINO reads: the path, or an ONNX model with its external data inside.

    Raises:
        UsageError: the file, or the weights of an IR, are missing or cannot be read.
    """
    if path.suffix != ".xml":
        return onnx_reader.runnable(path)
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise UsageError(f"{file}: no such file; OpenVINO's IR is an .xml file with its .bin beside it")
    return str(path)


def _refusal(error: Exception) -> str:
    unknown = re.search(r"No conversion rule found for operations: (.+)", str(error))
    return f"it does not support operator {unknown[1]}; use --runtime onnxruntime" if unknown else reason_of(error)


def _require_one_each(path: Path, compiled: Any) -> None:
    names = [[tensor.any_name for tensor in tensors] for tensors in (compiled.inputs, compiled.outputs)]
    if [len(some) for some in names] != [1, 1]:
        raise ExportError(f"{path}: has inputs {names[0]} and outputs {names[1]}; resx runs files of one each")


def _layer_precisions(compiled: Any) -> dict[str, int]:
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    found = Counter(
        layer["runtimePrecision"].astype(str) for layer in layers if layer["layerType"].astype(str) in _COMPUTING
    )
    return dict(sorted(found.items()))


def _require_precision(path: Path, compiled: Any, asked: PrecisionHint, layers: dict[str, int]) -> None:
    """Check what the compiled model says of itself, as a whole and layer by layer."""
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    wrong = "bf16" in layers if asked == "f32" else bool(layers) and "bf16" not in layers
    if taken != asked or wrong:
        counts = ", ".join(f"{number} in {precision}" for precision, number in layers.items())
        raise MissingCapability(
            f"{path}: OpenVINO was asked for {asked} and computes in {taken} here (layers: {counts or 'none'}); use "
            "--runtime onnxruntime"
        )
