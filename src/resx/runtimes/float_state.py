"""The calling thread's floating-point state: rounding, and whether denormal numbers count as zero.

OpenVINO sets the latter in the thread that compiles a model and leaves it so (seen with 2026.4): from then on NumPy and
PyTorch in that thread lose numbers below 1.2e-38 (2.2e-308 in float64) too, in whatever program imported resx.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator

_SIZE = 256
"""Bytes; more than `fenv_t` takes on any machine."""


@contextlib.contextmanager
def keep_float_state(inside: bytes = b"") -> Iterator[None]:
    """Put the state back at the end; meanwhile `inside` holds, which `read_float_state` gave, or what is set there."""
    before = read_float_state()
    _write(inside)
    try:
        yield
    finally:
        _write(before)


def read_float_state() -> bytes:
    """Return the state; empty where the C library has no such function."""
    libm, state = _libm(), ctypes.create_string_buffer(_SIZE)
    return state.raw if libm is not None and not libm.fegetenv(state) else b""


def _write(state: bytes) -> None:
    libm = _libm()
    if state and libm is not None:
        libm.fesetenv(state)


@functools.cache
def _libm() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libm.so.6")
    except OSError:
        return None
