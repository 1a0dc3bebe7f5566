"""A model file in an onnxruntime session, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from resx.card.kinds import Target
from resx.errors import ExportError, MissingCapability, first_line
from resx.machine import usable_cores
from resx.runtimes import onnx_reader
from resx.runtimes.answers import rows_of

try:
    import onnxruntime
except ImportError:
    raise MissingCapability(
        "onnxruntime is not installed; pip install 'resx[cpu]' (or 'resx[gpu]' where there is an NVIDIA GPU)"
    ) from None


_CUDA = "CUDAExecutionProvider"
_SILENT = 4


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options that leave the machine's other users their cores."""
    onnxruntime.set_default_logger_severity(
        _SILENT
    )  # the CUDA provider logs each plan it tries, past the session's level
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT  # errors come as exceptions too; warnings about fp16 on the CPU concern nobody
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take cores from whoever shares the machine, a server or client above all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(
    path: Path, *, threads: int | None = None, content: bytes | None = None, cuda: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Open a file, or `content` that was made of it, in a session on the CPU, or on the current GPU.

    Args:
        path: of the file, which errors name.
        threads: None takes every core that this process may use.
        content: opened in its place.
        cuda: options of the CUDA provider; None: the CPU computes.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ExportError: onnxruntime refuses the file.
        MissingCapability: the CUDA provider cannot be loaded; onnxruntime would take the CPU in silence.
    """
    model = onnx_reader.runnable(path) if content is None else content
    options = session_options(threads or usable_cores())
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda is not None:
        getattr(onnxruntime, "preload_dlls", lambda: None)()
        providers = [(_CUDA, dict(cuda)), *providers]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise ExportError(f"{path}: onnxruntime rejects it: {first_line(error)}") from error
    if cuda is not None and _CUDA not in session.get_providers():
        raise MissingCapability(f"onnxruntime cannot load its {_CUDA}; `resx doctor` says what is missing")
    return session


def session_with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    """Return a session on the CPU that gives these tensors of the graph; nothing is optimised away."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(usable_cores())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])


def default_target() -> Target:
    """Return what files are written for if nobody says: the GPU where onnxruntime can use one."""
    return "gpu" if has_cuda_provider() else "cpu"


def has_cuda_provider() -> bool:
    """Say whether this onnxruntime is the package for NVIDIA GPUs."""
    return _CUDA in onnxruntime.get_available_providers()


def onnxruntime_version() -> str:
    """Return onnxruntime's version."""
    return str(onnxruntime.__version__)


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
    except Exception as error:
        raise MissingCapability(
            "bf16: onnxruntime has no bfloat16 convolution on the CPU, so the file could not be verified; use --fp16 "
            "or --int8"
        ) from error


class OnnxRuntimeModel:
    """A model file in an onnxruntime session of its own."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        content: bytes | None = None,
        cuda: Mapping[str, str] | None = None,
    ) -> None:
        """Open the file (`open_session`).

        Raises:
            UsageError: the file is missing or cannot be read.
            ExportError: onnxruntime refuses the file.
            MissingCapability: the GPU cannot be used.
        """
        self._session = open_session(path, threads=threads, content=content, cuda=cuda)
        self._input = self._session.get_inputs()[0].name
        self._path = path

    def __call__(self, images_NCHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the logits [N, classes]; an output of more axes is flattened.

        Raises:
            ExportError: onnxruntime fails on the input.
            RowsChanged: the answer has another number of rows.
        """
        return rows_of(self.tensor(images_NCHW), len(images_NCHW), self._path)

    def tensor(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the output as the file gives it.

        Raises:
            ExportError: onnxruntime fails on the input.
        """
        try:
            (answer,) = self._session.run(None, {self._input: images})
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ExportError(f"{self._path}: fails on an input {list(images.shape)}: {first_line(error)}") from error
        return np.asarray(answer)
