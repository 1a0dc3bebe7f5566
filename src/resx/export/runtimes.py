"""Run a model file in process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from resx.errors import ExportError, MissingCapability
from resx.export.card import Target

try:
    import onnxruntime
except ImportError:
    raise MissingCapability(
        "onnxruntime is not installed; pip install 'resx[cpu]' (or 'resx[gpu]' where there is an NVIDIA GPU)"
    ) from None


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0))


def default_target() -> Target:
    """Return what files are written for if nobody says: the GPU where onnxruntime can use one."""
    return "gpu" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"


def require_bf16() -> None:
    """Check that onnxruntime computes a bf16 convolution here; without it no bf16 file could be verified.

    Raises:
        MissingCapability: it has no kernel for it.
    """
    images, weight = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, [1, 1, 1, 1]) for name in ("x", "w")
    )
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, [1, 1, 1, 1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", [images, weight], [answer])
    probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's own exceptions share no base but Exception
        raise MissingCapability(
            "bf16: onnxruntime has no bfloat16 convolution on the CPU, so the file could not be verified; "
            "take --fp16 or --int8"
        ) from error


class OnnxRuntimeModel:
    """A model file in an onnxruntime session of its own."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Open the file; `threads` None takes every core that this process may use.

        Raises:
            ExportError: onnxruntime refuses the file.
        """
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), session_options(threads or usable_cores()), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - onnxruntime's own exceptions share no base but Exception
            raise ExportError(f"{path}: onnxruntime refuses it: {str(error).partition(chr(10))[0]}") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images_NCHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the logits [N, classes]."""
        (logits,) = self._session.run(None, {self._input: images_NCHW})
        return np.asarray(logits, dtype=np.float32)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options that leave the machine's other users their cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about fp16 on the CPU concern nobody here
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take cores from whoever shares the machine, a server or client above all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
