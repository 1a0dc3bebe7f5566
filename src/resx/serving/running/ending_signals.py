"""The signals that end a server, as one exception, and what they must not cut short.

An exception out of a signal handler may come between any two steps. Two places do not survive that: `Popen.wait` just
after it took its lock, which it then never gives back, so that the next `wait` lasts forever; and a hook of `fork`,
where Python drops the exception, and the signal with it. Both were seen under load. `held_signals` keeps the exception
out of them and raises it at their end, also one that was dropped before.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers


class Terminated(BaseException):
    """A signal asked the supervisor to end."""


class _Asked:
    """Whether a signal has come that nothing was done about yet, and how many calls keep it from raising."""

    def __init__(self) -> None:
        self.to_end = False
        self.held = 0


_asked = _Asked()


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Turn the signals that end a server into one exception, so that every exit takes the same way out."""

    def end(_number: int, _frame: FrameType | None) -> None:
        _asked.to_end = True
        if not _asked.held:
            raise Terminated

    try:
        with handle_signals(end), contextlib.suppress(Terminated):
            yield
    finally:
        _asked.to_end = False


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Let no signal raise in here; raise at the end what came, here or where Python dropped it.

    Only the main thread is ever interrupted; in another this does nothing.

    Raises:
        Terminated: a signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.held += 1
    try:
        yield
    finally:
        _asked.held -= 1
    if _asked.to_end and not _asked.held:
        raise Terminated


def without_interruption(action: Callable[[], None]) -> None:
    """Run a clean-up that a second Ctrl-C must not cut short."""
    with handle_signals(signal.SIG_IGN):
        _asked.to_end = False
        action()


@contextlib.contextmanager
def handle_signals(handler: Handler) -> Iterator[None]:
    """Handle the signals that end a server: Ctrl-C, `kill`, a closed terminal, SIGQUIT.

    The last two are left alone where they are ignored, as under nohup.
    """
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    spared = {number for number in asked[2:] if signal.getsignal(number) is signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number in asked if number not in spared}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
