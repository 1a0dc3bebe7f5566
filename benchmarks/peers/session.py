"""The onnxruntime session of the peers' servers: one, with a thread for each core.

--spinning on    onnxruntime's default: idle threads spin, which costs a server that shares its cores
"""

import argparse
import os
from pathlib import Path

import numpy as np
import onnxruntime


def arguments() -> argparse.Namespace:
    """Read what each of the servers is told: the file, the port, and whether threads spin."""
    parser = argparse.ArgumentParser(description="Serves an ONNX file: POST /predict, one UINT8 image, FP32 logits.")
    parser.add_argument("model", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--spinning", choices=("on", "off"), default="off")
    return parser.parse_args()


class Model:
    """The file in a session."""

    def __init__(self, path: Path, *, spinning: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = self._session.get_inputs()[0]
        self._name, self._dims = taken.name, tuple(taken.shape[1:])

    def image(self, body: bytes) -> np.ndarray:
        """Return a request's body as an image [3, H, W]."""
        return np.frombuffer(body, np.uint8).reshape(self._dims)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits [N, classes] of images [N, 3, H, W]."""
        return self._session.run(None, {self._name: images})[0]
