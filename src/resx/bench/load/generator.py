"""The processes that send a load, and their reins.

Each process is fresh (spawned), ignores Ctrl-C (the one that holds the reins decides what becomes of the samples),
and ends when its reins do. How much processor time a process took is asked of the kernel from outside.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from resx.bench.load.fresh_processes import hide_main
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.load_task import DRAIN_S, LoadTask
from resx.bench.load.request_times import LoadProgress, Recorder, Records
from resx.bench.load.wire import Target
from resx.errors import ResxError
from resx.serving.client.answers import load_answer_bytes
from resx.serving.running.process_use import cpu_s
from resx.streams import make_readable

_GONE_S = 5.0
_NICENESS = -10


def tasks(plan: LoadPlan, target: Target, requests: tuple[bytes, ...]) -> list[LoadTask]:
    """Part a load among its processes."""
    address = target.address
    whole = LoadTask(
        protocol=address.protocol,
        host_port=address.host_port,
        requests=requests,
        tls=address.tls,
        headers=address.headers,
        rate_per_s=plan.rate_per_s / plan.processes,
        poisson=plan.arrivals == "poisson",
        timeout_s=plan.timeout_s,
        max_answer_bytes=load_answer_bytes(target.interface, plan.batch_size),
    )
    share, rest = divmod(plan.concurrency, plan.processes)
    return [
        replace(whole, concurrency=share + (number < rest), seed=(plan.seed, number))
        for number in range(plan.processes)
    ]


class Generators:
    """Runs one process for each task; a context manager that leaves none behind."""

    def __init__(self, parts: list[LoadTask]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Pipe] = []
        self._processes = []
        for part in parts:
            ours, theirs = context.Pipe()
            process = context.Process(target=_generate, args=(part, theirs), daemon=True, name="resx-load")
            with hide_main():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join(_GONE_S)
            pipe.close()

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Wait for the processes to have started; then let all of them send.

        Raises:
            ResxError: one did not start.
        """
        for pipe in self._pipes:
            if not pipe.poll(timeout_s) or pipe.recv() != "ready":
                raise ResxError("a load generator did not start; check the free memory")
        for pipe in self._pipes:
            pipe.send("go")

    def watch(self, until_ns: int) -> LoadProgress | None:
        """Return the next word of a process, or None when `until_ns` has come.

        Raises:
            ResxError: a process ended.
        """
        for pipe in wait(self._pipes, timeout=max(0.0, (until_ns - time.monotonic_ns()) / 1e9)):
            assert isinstance(pipe, Pipe)
            word = self._received(pipe)
            if isinstance(word, LoadProgress):
                return word
        return None

    def cpu_s(self) -> float:
        """Return the processor time that the processes took so far."""
        return sum(cpu_s(process.pid) for process in self._processes if process.pid)

    def stop(self) -> list[Records]:
        """Tell all to send no more; wait for what is in flight, and return what they saw.

        Raises:
            ResxError: a process ended without a word.
        """
        for pipe in self._pipes:
            pipe.send("stop")
        found = []
        for pipe in self._pipes:
            deadline = time.monotonic() + DRAIN_S + 60
            while True:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise ResxError("a load generator does not stop; its samples are lost")
                word = self._received(pipe)
                if isinstance(word, Records):
                    found.append(word)
                    break
        return found

    @staticmethod
    def _received(pipe: Pipe) -> object:
        try:
            return pipe.recv()
        except (EOFError, OSError) as error:
            raise ResxError("a load generator ended unexpectedly; its samples are lost") from error


def _generate(task: LoadTask, pipe: Pipe) -> None:
    """What a process does."""
    make_readable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        go_before_others(task)
    recorder = Recorder()
    if task.protocol == "grpc":
        from resx.bench.load.grpc_loop import run_grpc as run
    else:
        from resx.bench.load.http_loop import HttpLoop

        def run(task: LoadTask, recorder: Recorder, pipe: Pipe) -> None:
            HttpLoop(task, recorder, pipe).run()

    try:
        pipe.send("ready")
        pipe.recv()
        gc.collect()
        gc.disable()
        run(task, recorder, pipe)
        pipe.send(recorder.records())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # whoever held the reins is gone


def go_before_others(task: LoadTask) -> None:
    """Take a core as soon as there is something to do, where that is allowed; it sleeps most of the time.

    A sender that has to wait for a core sends late. With niceness alone 1 to 5 % of an open loop's requests left more
    than 1 ms late on 2 cores shared with the server, in the real-time class none did. That costs the server: it is
    preempted when a request is due, as it would be by a network card. A closed loop is not late, so it stays ordinary.

    Raises:
        OSError: it needs root or CAP_SYS_NICE.
    """
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    if task.rate_per_s:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
