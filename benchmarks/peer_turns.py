"""What a bar compares, by turns in short windows, in processes that stay until all turns are over.

The machine's speed changes by 5 to 8 % within seconds, and is higher after a pause: of two windows with a start between
them one can be so much faster for that alone. So both sides of a bar are started first, and then measured one right
after the other, again and again, each time beginning with the other one. A server whose turn it is not is idle, and
resx's supervisor stands still meanwhile, as its self-tests would compute.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any, Self, TypeAlias

import numpy as np
from benchmarks.peer_contenders import AT_ONCE, CONTENDERS, Bar, Figure, Form
from benchmarks.peer_rounds import Case, Measuring, batches_of, load
from benchmarks.peer_servers import running

from resx.bench.load.fresh_processes import hide_main
from resx.repository.versions import Published
from resx.serving.embedded.backend_session import backend_of, open_version, served_config

_OPENS_S = 120.0
_WARM_RUNS = 3
Window: TypeAlias = Callable[[], float]
"""Measures one side once and returns its figure."""


def by_turns(bar: Bar, cases: Mapping[Form, Case], how: Measuring, turns: int) -> list[float]:
    """Return the ratio of each turn."""
    ratios = []
    with contextlib.ExitStack() as stack:
        over, under = (stack.enter_context(_side(*side, cases, how)) for side in (bar.over, bar.under))
        for number in range(turns):
            if number % 2:
                below = under()
                ratios.append(over() / below)
            else:
                ratios.append(over() / under())
    return ratios


@contextlib.contextmanager
def _side(name: str, figure: Figure, cases: Mapping[Form, Case], how: Measuring) -> Iterator[Window]:
    contender, at_once, seconds = CONTENDERS[name], AT_ONCE[figure], how.seconds / 2
    case = cases[contender.form]
    if contender.kind == "in_process":
        with InProcess(case.version, batches_of(case, at_once)) as opened:
            yield lambda: opened.figure(figure, seconds)
        return
    with running(contender, case.version, case.images, how.folder, how.environments, how.spinning) as server:

        def window() -> float:
            with server.awake():
                found = load(server, at_once, seconds, seconds / 2)
            return float(np.median(found.inside.answered.latencies_ms)) if at_once == 1 else found.answers_per_s

        with server.asleep():
            yield window


class InProcess:
    """A process with the file opened as it is served, which computes when it is told to; a context manager."""

    def __init__(self, version: Published, batches: Sequence[np.ndarray]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._size = len(batches[0])
        card = version.repository.card(version.name, version.version)
        config = served_config(version.folder.parent, card)
        path = str(version.folder / card.model_file)
        self._process = context.Process(target=_compute, args=(path, config, list(batches), theirs), daemon=True)
        with hide_main():
            self._process.start()

    def __enter__(self) -> Self:
        """Wait until the file is opened.

        Raises:
            SystemExit: it cannot be, or takes longer than two minutes.
        """
        if not self._pipe.poll(_OPENS_S) or self._pipe.recv() != "ready":
            self._process.kill()
            raise SystemExit("the file in process: was not opened")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def figure(self, figure: Figure, seconds: float) -> float:
        """Compute one batch after the other for a while."""
        self._pipe.send(seconds)
        times_s = self._pipe.recv()
        return statistics.median(times_s) * 1e3 if figure.endswith("_ms") else self._size * len(times_s) / sum(times_s)


def _compute(path: str, config: dict[str, Any], batches: list[np.ndarray], pipe: Pipe) -> None:
    """What the process does."""
    opened = open_version(path, config, backend_of(config), "cpu")
    (taken, *_), given = opened.interface
    names = [output.name for output in given]

    def run(number: int) -> float:
        begun = time.perf_counter()
        opened.run(names, {taken.name: batches[number % len(batches)]}, opened.options)
        return time.perf_counter() - begun

    pipe.send("ready")
    while seconds := pipe.recv():
        for number in range(_WARM_RUNS):
            run(number)
        times_s, until = [], time.perf_counter() + seconds
        while not times_s or time.perf_counter() < until:
            times_s.append(run(len(times_s)))
        pipe.send(times_s)
