"""The signals that end a server, as one exception, and what a second one must not cut short."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers


class Terminated(BaseException):
    """A signal asked the supervisor to end."""


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Turn the signals that end a server into one exception, so that every exit takes the same way out."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    with handle_signals(end), contextlib.suppress(Terminated):
        yield


def without_interruption(action: Callable[[], None]) -> None:
    """Run a clean-up that a second Ctrl-C must not cut short."""
    with handle_signals(signal.SIG_IGN):
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
