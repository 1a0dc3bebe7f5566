"""A Ctrl-C that other code swallows ends an export all the same."""

import gc
import os
import signal
import weakref
from collections.abc import Callable

import pytest

from resx.cli.steps.interruption import keep_interrupts


class Node:
    """What a weak reference can be of."""


def interrupt(*_args: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def in_a_callback_of_the_collector() -> None:
    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    kept = weakref.ref(node, interrupt)
    del node
    gc.collect()
    assert kept() is None


def in_code_that_catches_everything() -> None:
    try:
        interrupt()
    except BaseException:
        return


def export(swallow: Callable[[], None], seen: list[str]) -> None:
    with keep_interrupts(seen.append) as step:
        step("write")
        swallow()
        step("publish")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("swallow", [in_a_callback_of_the_collector, in_code_that_catches_everything])
def test_the_next_step_raises_an_interrupt_that_was_swallowed(swallow: Callable[[], None]) -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        export(swallow, seen)

    assert seen == ["write"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        export(interrupt, seen)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["write", "publish"]
