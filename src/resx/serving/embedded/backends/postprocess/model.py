"""Python-backend model of an image endpoint: the network's logits in, they and their probabilities out.

`resx export --image-endpoint` copies it to `NAME_postprocess/1/model.py`; the ensemble `NAME_image` runs it after NAME.
It needs numpy in the server's Python and nothing of resx, so it runs in NVIDIA's container too. The probabilities are
those of `resx query`: it repeats the softmax of `resx.card.output_kind`, and a test compares.

Tensors cross by DLPack: the embedded server's stub was built against numpy 1 and corrupts what goes through numpy 2.
"""

import ctypes
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)


class TritonPythonModel:
    """Makes probabilities of the logits of one image a request."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return [_answer(request) for request in requests]


def softmax(logits: Array) -> Array:
    """Return the probabilities [N, classes] of logits [N, ...]."""
    rows = logits.reshape(len(logits), -1)
    weights = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _answer(request: Any) -> Any:
    try:
        logits = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "answer"))
        given = {"logits": logits.copy(), "probabilities": softmax(logits)}
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([_tensor(name, array) for name, array in given.items() if name in wanted])
    except Exception as error:  # a request must get an answer, whatever happened
        reason = f"{type(error).__name__}: {error}"
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INTERNAL))


def _tensor(name: str, array: Array) -> Any:
    """Return a tensor by DLPack, and mark the capsule as used by its right name (see the onnxruntime backend)."""
    capsule = np.ascontiguousarray(array).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, b"used_dltensor")
    return tensor
