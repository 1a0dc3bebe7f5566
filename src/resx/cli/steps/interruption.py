"""Ctrl-C in an export: it ends it, even where the code that ran has swallowed the exception.

Python raises KeyboardInterrupt wherever the main thread is. Within a callback of the garbage collector's or of a
weak reference, as PyTorch's tracing has many, it is dropped with "Exception ignored in"; now and then an interrupted
export went on to its end and published.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def keep_interrupts(on_step: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Give `on_step` with a check: after a Ctrl-C that was swallowed, the next step raises it again.

    Not for what goes on after a Ctrl-C on purpose, as a deployment does that is rolled back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield on_step
        return
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    def step(text: str) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        on_step(text)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as in the background of a script
        yield on_step
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield step
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
