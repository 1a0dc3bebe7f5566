"""Run a model file in process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from resx.errors import ExportError, MissingCapability, ParityError
from resx.export import engine_layers, onnx_reading
from resx.export.card import Card, Target
from resx.export.gpu import gpu_here
from resx.export.tensorrt_engine import collecting_logger, last_error, load_package
from resx.machine import usable_cores

try:
    import onnxruntime
except ImportError:
    raise MissingCapability(
        "onnxruntime is not installed; pip install 'resx[cpu]' (or 'resx[gpu]' where there is an NVIDIA GPU)"
    ) from None

_CUDA = "CUDAExecutionProvider"


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options that leave the machine's other users their cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions too; warnings about fp16 on the CPU concern nobody
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
    model = onnx_reading.runnable(path) if content is None else content
    options = session_options(threads or usable_cores())
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda is not None:
        getattr(onnxruntime, "preload_dlls", lambda: None)()
        providers = [(_CUDA, dict(cuda)), *providers]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise ExportError(f"{path}: onnxruntime refuses it: {str(error).partition(chr(10))[0]}") from error
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
            "bf16: onnxruntime has no bfloat16 convolution on the CPU, so the file could not be verified; "
            "take --fp16 or --int8"
        ) from error


class RowsChanged(ParityError):  # noqa: N818 - named after what happened
    """A model gave more or fewer rows than it was asked for."""


class OnnxRuntimeModel:
    """A model file in an onnxruntime session of its own."""

    def __init__(
        self, path: Path, *, threads: int | None = None, content: bytes | None = None,
        cuda: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
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
        answer = self.tensor(images_NCHW)
        if answer.ndim == 0 or len(answer) != len(images_NCHW):
            raise RowsChanged(
                f"{self._path}: gives {list(answer.shape)} for a batch of {len(images_NCHW)}; each image must have a "
                "row of its own"
            )
        return answer.reshape(len(answer), -1).astype(np.float32, copy=False)

    def tensor(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the output as the file gives it.

        Raises:
            ExportError: onnxruntime fails on the input.
        """
        try:
            (answer,) = self._session.run(None, {self._input: images})
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = str(error).partition("\n")[0]
            raise ExportError(f"{self._path}: fails on an input {list(images.shape)}: {reason}") from error
        return np.asarray(answer)


class TensorRTModel:
    """A plan of TensorRT, or an engine of TensorRT for RTX, on the current GPU; one input, one output."""

    def __init__(self, path: Path, trt: Any) -> None:
        """Open the file with `trt`, the package that built it.

        Raises:
            MissingCapability: there is no GPU here.
            ExportError: the package refuses the file: another version or another kind of GPU built it.
        """
        if gpu_here() is None:
            raise MissingCapability(f"{path}: no GPU here that PyTorch can use; run it on a machine with an NVIDIA GPU")
        self._trt = trt
        self._logger = collecting_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ExportError(
                f"{path}: {trt.__name__} {trt.__version__} refuses it ({last_error(self._logger)}); "
                "build it again on this machine"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = [(name, self._engine.get_tensor_mode(name)) for name in names]
        inputs = [name for name, mode in modes if mode == trt.TensorIOMode.INPUT]
        outputs = [name for name, mode in modes if mode == trt.TensorIOMode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise ExportError(f"{path}: has inputs {inputs} and outputs {outputs}; resx runs engines of one each")
        self._input, self._output = inputs[0], outputs[0]

    def __call__(self, images_NCHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the logits [N, classes].

        Raises:
            ExportError: the batch is outside the engine's profile, or the run failed.
        """
        import torch

        # A stream of its own, as TensorRT would wait for all work on the default one.
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            image = torch.from_numpy(np.ascontiguousarray(images_NCHW)).cuda()
            if not self._context.set_input_shape(self._input, tuple(image.shape)):
                raise ExportError(f"a batch of {len(images_NCHW)} is outside the engine's profile; build it for more")
            logits = torch.empty(
                tuple(self._context.get_tensor_shape(self._output)), dtype=torch.float32, device="cuda"
            )
            self._context.set_tensor_address(self._input, image.data_ptr())
            self._context.set_tensor_address(self._output, logits.data_ptr())
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise ExportError(f"a batch of {len(images_NCHW)} could not be run: {last_error(self._logger)}")
            answer = logits.cpu()
        stream.synchronize()
        return np.asarray(answer.numpy(), dtype=np.float32)

    def interface(self) -> tuple[str, str]:
        """Return input and output as `name TYPE [dims]`, the batch as -1."""
        described = [
            f"{name} {self._engine.get_tensor_dtype(name).name} {list(self._engine.get_tensor_shape(name))}"
            for name in (self._input, self._output)
        ]
        return described[0], described[1]

    def batches(self) -> list[tuple[int, ...]]:
        """Return the smallest, the best and the largest batch of each optimization profile."""
        return [
            tuple(shape[0] for shape in self._engine.get_tensor_profile_shape(self._input, index))
            for index in range(self._engine.num_optimization_profiles)
        ]

    def layers(self) -> list[tuple[str, str]]:
        """Return (name, precision) of the engine's layers that compute, as its inspector tells them."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return engine_layers.inspected_layers(text)


def open_model(path: Path, card: Card) -> OnnxRuntimeModel | TensorRTModel:
    """Open the file of a version, or of an engine's folder, with what runs it.

    Raises:
        MissingCapability: it is a plan or an engine, and its package or a GPU is missing here.
        ExportError: the runtime refuses the file.
    """
    return OnnxRuntimeModel(path) if card.engine is None else TensorRTModel(path, load_package(card.engine.builder))
