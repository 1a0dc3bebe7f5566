"""Run a model file in process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import ExportError, MissingCapability, UsageError

try:
    import onnxruntime
except ImportError:
    raise MissingCapability(
        "onnxruntime is not installed; pip install 'resx[cpu]' (or 'resx[gpu]' where there is an NVIDIA GPU)"
    ) from None


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0))


def open_session(path: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open a file in a session on the CPU; `threads` None takes every core that this process may use.

    Raises:
        UsageError: there is no such file.
        ExportError: onnxruntime refuses the file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a .onnx file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about fp16 on the CPU concern nobody here
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    # Spinning threads take cores from whoever shares the machine, a server or client above all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"{path}: onnxruntime refuses it: {str(error).partition(chr(10))[0]}") from error


class OnnxRuntimeModel:
    """A model file in an onnxruntime session of its own."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Open the file; `threads` None takes every core that this process may use.

        Raises:
            ExportError: onnxruntime refuses the file.
        """
        self._session = open_session(path, threads=threads)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images_NCHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the logits [N, classes]."""
        (logits,) = self._session.run(None, {self._input: images_NCHW})
        return np.asarray(logits, dtype=np.float32)
