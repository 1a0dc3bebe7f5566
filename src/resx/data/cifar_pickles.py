"""The pickles in CIFAR's archives.

A pickle is a program, so they are read by an unpickler that knows nothing but numbers, strings, lists, dictionaries
and UINT8 arrays, and refuses the file at the first other thing. It knows what Python 2 wrote in 2009 and what numpy 1
and 2 write in every protocol up to 5, the default of Python 3.14.

It is our own because no library reads them safely: `torch.load(weights_only=True)` takes only files of torch's own
format, and unpickling arrays by numpy's own classes hands them any state that the file holds.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import UsageError

_AGAIN = "download the archive again"
_MAX_OPCODES = 1_000_000
"""CIFAR-100's training file has 300,000; each may make an object of 200 bytes."""


def unpickle(payload: bytes, where: str) -> dict[str, Any]:
    """Return a pickled dictionary of plain values; its keys as text, for the archives were written by Python 2.

    An array is the `value` of what stands in for it.

    Raises:
        UsageError: it is damaged, or holds something else; the message begins with `where`.
    """
    try:
        _require_small(payload)
        value = _PlainUnpickler(io.BytesIO(payload), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise UsageError(f"{where}: {error}; {_AGAIN}") from error
    # A damaged pickle can fail in any of these ways, and in no other that can be told from our mistakes.
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, OverflowError) as error:
        raise UsageError(f"{where}: damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: does not contain a dictionary; {_AGAIN}")
    return {text_of(key): item for key, item in value.items() if isinstance(key, str | bytes)}


def _require_small(payload: bytes) -> None:
    """Check that a pickle makes no more objects than an archive's does: an empty set is one byte here, 200 in memory.

    Raises:
        pickle.UnpicklingError: it does, or it would have the table of its objects grown to gigabytes.
        ValueError: it is damaged.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(payload))):
        is_far = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > _MAX_OPCODES
        if number >= _MAX_OPCODES or is_far:
            raise pickle.UnpicklingError(f"has more than {_MAX_OPCODES:,} objects, unlike any CIFAR archive")


def text_of(value: str | bytes) -> str:
    """Return a pickled name as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Dtype:
    """Stands in for `numpy.dtype`: only UINT8 is known, whose byte order, the state, means nothing."""

    def __init__(self, code: object, *_flags: object) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"contains an array of {code!r}")

    def __setstate__(self, _state: object) -> None:
        pass


class _Array:
    """Stands in for `numpy.ndarray`, so that no state from the file reaches numpy's own unpickling.

    It copies nothing: a file may name the same bytes a million times.
    """

    value: npt.NDArray[np.uint8]

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple(shape), _Dtype(), False, bytes(payload)):
                self.value = np.frombuffer(payload, dtype=np.uint8).reshape(shape)
            case _:
                raise pickle.UnpicklingError("contains an unusual array")


def _new_array(kind: object, _shape: object, _typecode: object) -> _Array:
    """Stand in for numpy's `_reconstruct`: an array, filled by the state that follows in the pickle."""
    if kind is not _Array:
        raise pickle.UnpicklingError("contains an unusual array")
    return _Array()


def _from_buffer(payload: object, dtype: object, shape: object, order: object) -> _Array:
    """Stand in for numpy's `_frombuffer`, by which protocol 5 writes arrays: bytes if they are read-only."""
    match (payload, dtype, shape, order):
        case (bytes() | bytearray(), _Dtype(), tuple(), "C" | "F"):
            array = _Array()
            array.value = np.frombuffer(payload, dtype=np.uint8).reshape(shape, order=order)
            return array
        case _:
            raise pickle.UnpicklingError("contains an unusual array")


def _latin1(text: object, encoding: object) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes in old protocols."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("contains an unusual encoding")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, str], type | Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _empty_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows numbers, strings, bytes, lists, dictionaries and arrays of UINT8; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, which no CIFAR archive needs") from None
