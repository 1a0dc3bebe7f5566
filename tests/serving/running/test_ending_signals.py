"""The exception that a signal raises: it comes once, not where it does harm, and it is not lost."""

import signal
import subprocess
import threading
import time
from typing import Any

import pytest

from resx.serving.embedded.triton_process import TritonProcess
from resx.serving.running.ending_signals import Terminated, held_signals, signals_raise, without_interruption


def test_a_signal_ends_the_block_and_nothing_after_it() -> None:
    steps = []
    with signals_raise():
        steps.append("before")
        signal.raise_signal(signal.SIGTERM)
        steps.append("after")
    with held_signals():
        steps.append("later")
    assert steps == ["before", "later"]


def test_a_signal_is_raised_where_the_holding_ends_and_not_within() -> None:
    steps = []
    with signals_raise():
        with held_signals():
            with held_signals():
                signal.raise_signal(signal.SIGTERM)
                steps.append("inner")
            steps.append("outer")
        steps.append("after")
    assert steps == ["inner", "outer"]


def test_an_exception_that_python_dropped_is_raised_at_the_next_chance() -> None:
    """As in a hook of fork, or in __del__."""
    steps = []
    with signals_raise():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated:
            steps.append("dropped")
        with held_signals():
            steps.append("held")
        steps.append("after")
    assert steps == ["dropped", "held"]


def test_what_cleans_up_is_not_ended_by_the_signal_that_it_cleans_up_after() -> None:
    steps = []

    def clean_up() -> None:
        with held_signals():
            signal.raise_signal(signal.SIGINT)
        steps.append("cleaned up")

    with signals_raise():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated:
            without_interruption(clean_up)
        with held_signals():
            steps.append("held")
        steps.append("after")
    assert steps == ["cleaned up", "held", "after"]


def test_another_thread_is_not_ended() -> None:
    steps = []

    def run() -> None:
        with held_signals():
            steps.append("held")
        steps.append("after")

    with signals_raise():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    assert steps == ["held", "after"]


class _InterruptedLock:
    """A lock as `Popen` has it; a signal comes just as it was taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.taken = 0

    def acquire(self, *arguments: Any) -> bool:
        is_taken = self._lock.acquire(*arguments)
        self.taken += 1
        if self.taken == 1:
            signal.raise_signal(signal.SIGTERM)
        return is_taken

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("ask", [lambda server: server.wait(0.1), lambda server: server.require_running()])
def test_a_signal_while_the_server_is_waited_for_leaves_no_lock_behind(ask: Any) -> None:
    """Else the server ended and was waited for without end."""
    lock = _InterruptedLock()
    server = TritonProcess.__new__(TritonProcess)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            process._waitpid_lock = lock  # type: ignore[attr-defined]
            server._process = process
            ended = False
            with signals_raise():
                ask(server)
                ended = True
            assert lock.taken
            assert (lock.locked(), ended) == (False, False)
        finally:
            process._waitpid_lock = threading.Lock()  # type: ignore[attr-defined]
            process.kill()


def test_whoever_waits_for_the_server_is_woken_by_a_stubs_end() -> None:
    server = TritonProcess.__new__(TritonProcess)
    with subprocess.Popen(["sleep", "60"]) as process, subprocess.Popen(["sleep", "60"]) as stub:
        server._process = process
        threading.Timer(0.1, stub.kill).start()
        begun = time.monotonic()
        assert not server.wait(30, [stub.pid])
        assert time.monotonic() - begun < 20
        process.kill()
        assert server.wait(30, [])
