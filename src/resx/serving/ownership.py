"""One supervisor per repository: it owns the state folder while it lives, and leaves by one way whatever ends it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from resx.files import exclusive, require_lockable
from resx.serving import state as states
from resx.serving.repository import Repository
from resx.serving.starting import OWNER, announce
from resx.serving.triton_process import remove_remains

Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers


class Terminated(BaseException):
    """A signal asked the supervisor to end."""


@contextlib.contextmanager
def own(repository: Repository) -> Iterator[tuple[Path, dict[str, tuple[int, ...]], dict[str, str]]]:
    """Hold the lock of the repository's state folder; give it, and what a killed supervisor had deployed and set aside.

    What such a supervisor left behind, processes and shared memory, is removed.

    Raises:
        UsageError: another supervisor holds it, or the folder cannot be written.
        CannotLock: its file system has no locks, or the repository's has none.
    """
    require_lockable(repository.root)  # deploying needs it, model by model
    folder = states.make_folder(repository)
    with _locked(repository, folder), announce(folder, OWNER):
        dead = states.read_state(folder)
        left = states.deployed(repository) if dead and dead.phase != "draining" else {}
        if dead:
            remove_remains(dead.server_pid, dead.pid, dead.http_port, start_ticks=dead.server_start_ticks)
        for name in (states.STATE, states.ENDED):
            (folder / name).unlink(missing_ok=True)
        known = {name: repository.versions(name) for name in left}
        kept = {name: there for name in left if (there := _kept(left[name], known[name]))}
        yield folder, kept, dead.set_aside if dead else {}


def _locked(repository: Repository, folder: Path) -> contextlib.ExitStack:
    held = contextlib.ExitStack()
    for tries_left in range(20, -1, -1):  # others take the lock for an instant, to see whether it is free
        try:
            held.enter_context(exclusive(folder, wait=False))
            break
        except BlockingIOError:
            if not tries_left:
                raise states.served_already(repository, states.read_state(folder)) from None
            time.sleep(0.02)
    return held


def _kept(versions: Sequence[int], known: Sequence[int]) -> tuple[int, ...]:
    return tuple(version for version in versions if version in known)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Turn the signals that end a server into one exception, so that every exit takes the same way out."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    with handled(end), contextlib.suppress(Terminated):
        yield


def without_interruption(action: Callable[[], None]) -> None:
    """Run a clean-up that a second Ctrl-C must not cut short."""
    with handled(signal.SIG_IGN):
        action()


@contextlib.contextmanager
def handled(handler: Handler) -> Iterator[None]:
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
