"""A plan of TensorRT, or an engine of TensorRT for RTX, on the current GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import ExportError, MissingCapability
from resx.runtimes import engine_layers
from resx.runtimes.tensorrt_package import collecting_logger, last_error
from resx.runtimes.torch_gpu import gpu_here


class TensorRTModel:
    """A plan of TensorRT, or an engine of TensorRT for RTX, on the current GPU; one input, one output."""

    def __init__(self, path: Path, trt: Any) -> None:
        """Open the file with `trt`, the package that built it.

        Raises:
            MissingCapability: there is no GPU here.
            ExportError: the package refuses the file: another version or another kind of GPU built it.
        """
        if gpu_here() is None:
            raise MissingCapability(f"{path}: PyTorch finds no usable GPU; run it on a machine with an NVIDIA GPU")
        self._trt = trt
        self._logger = collecting_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ExportError(
                f"{path}: {trt.__name__} {trt.__version__} rejects it ({last_error(self._logger)}); build it again on "
                "this machine"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = [(name, self._engine.get_tensor_mode(name)) for name in names]
        inputs = [name for name, mode in modes if mode == trt.TensorIOMode.INPUT]
        outputs = [name for name, mode in modes if mode == trt.TensorIOMode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise ExportError(f"{path}: has inputs {inputs} and outputs {outputs}; resx runs engines with one of each")
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
                raise ExportError(
                    f"a batch of {len(images_NCHW)} is outside the engine's profile; build it with a larger profile"
                )
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
