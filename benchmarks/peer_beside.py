"""A served file beside the same file in process, by turns in short windows: for bars of a few percent.

The machine's speed changes by 5 to 8 % within seconds, and is higher after a pause. Two windows of 2 s with a start
between them differ by that; windows of a second that follow each other at once, in processes that stay, do not. While
the file is computed in process, the server is idle and its supervisor stands still, as its self-tests would compute.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Self

import numpy as np
from benchmarks.peer_servers import Running, silent

from resx.bench.load.fresh_processes import hide_main
from resx.repository.versions import Published
from resx.serving.embedded.backend_session import backend_of, open_version, served_config

PAIRS = 8
_OPENS_S = 120.0
_WARM_RUNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class InProcessWindow:
    """What a window in process gave."""

    p50_ms: float
    """Of a batch."""
    images_per_s: float


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

    def window(self, server: Running, seconds: float) -> InProcessWindow:
        """Compute one batch after the other while the server is silent."""
        with silent(server):
            self._pipe.send(seconds)
            times_s = self._pipe.recv()
        return InProcessWindow(
            p50_ms=statistics.median(times_s) * 1e3, images_per_s=self._size * len(times_s) / sum(times_s)
        )


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
