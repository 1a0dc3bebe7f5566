"""The memory on which the calling thread handles signals (sigaltstack(2)), kept as it is.

OpenVINO's plugin for the CPU gives the thread that loads it another one, and at its end puts back what it found, even
if that is gone by then (seen with 2026.4). After two models of which the older one went first nothing was left, and the
next signal, such as Ctrl-C, ended the process by SIGSEGV. A plugin that finds that its own is no longer in use puts
back nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """`stack_t`."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Put the memory back at the end that was in use before, in this thread."""
    libc, before = ctypes.CDLL(None), _Stack()
    known = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(before), None)
