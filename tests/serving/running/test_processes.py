"""Processes as /proc and the kernel's descriptors tell of them."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from resx.serving.running import processes
from tests.support.running_triton import wait_until


def test_a_childs_end_wakes_whoever_sleeps_until_then() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        threading.Timer(0.1, child.kill).start()
        begun = time.monotonic()
        assert processes.sleep_until_end([child.pid], 30)
        assert time.monotonic() - begun < 20
        assert child.wait(5) < 0


def test_a_process_that_is_no_child_wakes_as_well() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 0.2 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        begun = time.monotonic()
        assert processes.sleep_until_end([os.getpid(), grandchild], 30)
        assert time.monotonic() - begun < 20


def test_the_sleep_is_over_in_time_though_the_child_lives() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        descriptors = len([*Path("/proc/self/fd").iterdir()])
        begun = time.monotonic()
        assert processes.sleep_until_end([child.pid, processes.MAX_PID + 1], 0.05)
        assert time.monotonic() - begun >= 0.05
        assert child.poll() is None
        assert len([*Path("/proc/self/fd").iterdir()]) == descriptors
        child.kill()


def test_a_kernel_without_descriptors_of_processes_lets_nobody_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """gVisor has none, and a container's rules may forbid them."""

    def refuse(_pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert not processes.sleep_until_end([os.getpid()], 60)


@pytest.mark.parametrize("index", ["/proc/thread-self/children", "/proc/no-such-index"])
def test_children_of_every_thread_are_found_dead_ones_too(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    monkeypatch.setattr(processes, "_INDEX", Path(index))
    started: list[subprocess.Popen[bytes]] = []
    begun, over = threading.Event(), threading.Event()

    def begin() -> None:
        started.append(subprocess.Popen(["sleep", "60"]))
        begun.set()
        over.wait()

    threading.Thread(target=begin, daemon=True).start()
    begun.wait()
    started.append(subprocess.Popen(["true"]))
    try:
        wait_until(lambda: processes.stat_fields(started[1].pid)[:1] == ["Z"], "the end of a child")
        assert {child.pid for child in started} <= set(processes.children(os.getpid()))
        assert processes.children(started[0].pid) == []
        assert processes.children(processes.MAX_PID + 1) == []
    finally:
        over.set()
        for child in started:
            child.kill()
            child.wait()
