"""The file in a runtime, as the peers' servers open it: one session or compiled model, with a thread for each core.

--runtime openvino    compiled for latency; --bf16 computes in bf16, which OpenVINO does by itself where it can
--spinning off        onnxruntime's idle threads do not busy-wait, which is its default
"""

import argparse
import os
import threading
from pathlib import Path

import numpy as np


def arguments() -> argparse.Namespace:
    """Read what each of the servers is told."""
    parser = argparse.ArgumentParser(description="Serves an ONNX file: POST /predict, one UINT8 image, FP32 logits.")
    parser.add_argument("model", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--spinning", choices=("on", "off"), default="on")
    return parser.parse_args()


class OnnxRuntime:
    """The file in an onnxruntime session."""

    def __init__(self, options: argparse.Namespace) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = len(os.sched_getaffinity(0))
        settings.inter_op_num_threads = 1
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning == "on")))
        self._session = onnxruntime.InferenceSession(str(options.model), settings, providers=["CPUExecutionProvider"])
        taken = self._session.get_inputs()[0]
        self._name, self.dims = taken.name, tuple(taken.shape[1:])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits [N, classes] of images [N, 3, H, W]."""
        return self._session.run(None, {self._name: images})[0]


class OpenVino:
    """The file compiled by OpenVINO; each thread that calls it has a request of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        import openvino

        self._tensor = openvino.Tensor
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "INFERENCE_PRECISION_HINT": "bf16" if options.bf16 else "f32",
        }
        core = openvino.Core()
        self._compiled = core.compile_model(core.read_model(str(options.model)), "CPU", settings)
        self._own = threading.local()
        self.dims = tuple(dim.get_length() for dim in list(self._compiled.inputs[0].get_partial_shape())[1:])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits [N, classes] of images [N, 3, H, W]."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        request = self._own.request
        request.infer([self._tensor(images)])
        return request.get_output_tensor(0).data.copy()


class Model:
    """The file, whatever computes it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._opened = (OpenVino if options.runtime == "openvino" else OnnxRuntime)(options)

    def image(self, body: bytes) -> np.ndarray:
        """Return a request's body as an image [3, H, W]."""
        return np.frombuffer(body, np.uint8).reshape(self._opened.dims)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits [N, classes] of images [N, 3, H, W]."""
        return self._opened.logits(np.ascontiguousarray(images))
