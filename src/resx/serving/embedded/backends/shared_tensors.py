"""Tensors as this process and the server hand them to each other: arrays over memory that both of them have.

They cross by DLPack in both directions. The stub in nvidia-pytriton 0.7.0 was built against numpy 1:
under numpy 2 `as_numpy()` and `Tensor(name, array)` give wrong or empty data without an error.
The stub marks a capsule that it took as `used_dlpack`, where DLPack says `used_dltensor`; numpy then takes it for
broken and writes a traceback per tensor into the server's log, which cost more than all else here. `_tensor`
puts the mark right.
"""

import ctypes
from collections.abc import Mapping
from typing import Any, TypeAlias

import memory_views
import numpy as np
import triton_python_backend_utils as pb_utils

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

USED = b"used_dltensor"
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)
MOST_KEPT_BYTES = 1 << 20
"""Of a response that stays in shared memory between requests."""


def read(tensor: Any) -> Array:
    """Return the array over a tensor's memory; it can be read only."""
    return np.from_dlpack(_Handed(tensor.to_dlpack()))


def response(parts: Mapping[str, Array]) -> Any:
    """Return a response of these outputs."""
    return pb_utils.InferenceResponse(_tensors(parts))


class KeptResponse:
    """The response to one request after the other, made once for outputs of the same names, shapes and types.

    After a long run none of what makes a response is in the processor's caches, and it takes 0.1 ms (resnet50).
    The stub puts a response's tensors into shared memory as it sends it, and there they stay as long as they live;
    the server copies them out before it hands over the next request. So that memory is written again and the same
    response sent again. Where a tensor is still in the memory that it was made from, the response is made anew.
    """

    def __init__(self) -> None:
        self._response: Any = None
        self._tensors: list[Any] = []
        self._made_from: Mapping[str, Array] = {}
        self._shared: list[Array] = []
        """The outputs' memory, once it was looked for."""

    def __call__(self, parts: Mapping[str, Array]) -> Any:
        """Return a response of these outputs, which must be sent before the next one is asked for."""
        if not self._is_for(parts) or not (self._shared or self._find_shared()):
            return self._make(parts)
        for shared, part in zip(self._shared, parts.values(), strict=True):
            shared[...] = part
        return self._response

    def _is_for(self, parts: Mapping[str, Array]) -> bool:
        kept = self._made_from
        return kept.keys() == parts.keys() and all(
            part.shape == kept[name].shape and part.dtype == kept[name].dtype for name, part in parts.items()
        )

    def _make(self, parts: Mapping[str, Array]) -> Any:
        tensors = _tensors(parts)
        made, is_small = pb_utils.InferenceResponse(tensors), sum(part.nbytes for part in parts.values())
        self._shared = []
        if is_small <= MOST_KEPT_BYTES:
            self._response, self._tensors, self._made_from = made, tensors, dict(parts)
        else:
            self._response, self._tensors, self._made_from = None, [], {}
        return made

    def _find_shared(self) -> bool:
        """Find where the stub has put the tensors."""
        found = [memory_views.writable(read(tensor)) for tensor in self._tensors]
        moved = all(
            there.size and there.dtype == part.dtype and there.ctypes.data != part.ctypes.data
            for there, part in zip(found, self._made_from.values(), strict=True)
        )
        self._shared = found if moved else []
        return bool(self._shared)


class _Handed:
    """A capsule as numpy asks for one; the stub's tensor is asked in a way that it does not know first, and raises."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_asked: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU


def _tensors(parts: Mapping[str, Array]) -> list[Any]:
    # A tensor of no axes has no dims in config.pbtxt; it is [1] there.
    return [_tensor(name, part if part.ndim else part.reshape(1)) for name, part in parts.items()]


def _tensor(name: str, array: Array) -> Any:
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, USED)
    return tensor
