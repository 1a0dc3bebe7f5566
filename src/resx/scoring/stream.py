"""Decode and compute at the same time, in order, with a bounded number of images in memory.

Some threads read and decode, others compute; Pillow, numpy and onnxruntime let go of the interpreter's lock while they
work. Each stage runs a fixed number of items ahead of the next, so memory does not depend on the number of images.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from resx.files.reading import MIB
from resx.scoring.rows import Compute, Model, prepare, score
from resx.scoring.sources.source import ImageSource

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
U = TypeVar("U")
DECODERS_NICE = 5
_MAX_WEIGHT = 256 * MIB
_REMOTE_DECODERS = 32
"""Reading a bucket is waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How much happens at the same time."""

    decoders: int
    """Threads that read and decode."""
    in_flight: int
    """Batches that are computed at the same time."""


def workers_for(source: ImageSource, *, in_flight: int, cores: int) -> Workers:
    """Return as many decoding threads as there are cores, or more where reading is waiting."""
    return Workers(decoders=_REMOTE_DECODERS if source.is_remote else max(2, cores), in_flight=in_flight)


def score_rows(source: ImageSource, model: Model, compute: Compute, top: int, workers: Workers) -> Iterator[pa.Table]:
    """Give the source's rows, a batch at a time, in their order; batches begin at the source's first row.

    Raises:
        ResxError: what `compute` raises.
    """
    size = model.batch_size
    with open_pool(workers.decoders, nice=DECODERS_NICE) as decoding, open_pool(workers.in_flight) as computing:
        ready = partial(prepare, interface=model.interface)
        prepared = ahead(decoding, ready, source.rows(), 2 * size + 16, lambda row: row.held_bytes)
        finish = partial(score, model=model, compute=compute, top=top)
        yield from ahead(computing, finish, batch(prepared, size), workers.in_flight + 1)


def ahead(
    pool: Executor, work: Callable[[T], U], items: Iterable[T], window: int, weigh: Callable[[T], int] = lambda _: 0
) -> Iterator[U]:
    """Give `work` of each item in their order, while up to `window` further ones are under way or finished.

    Fewer where they are heavy: together they weigh up to `_MAX_WEIGHT`.
    """
    running: deque[tuple[Future[U], int]] = deque()
    weight = 0
    for item in items:
        weight += weigh(item)
        running.append((pool.submit(work, item), weigh(item)))
        while len(running) > window or (weight > _MAX_WEIGHT and running):
            oldest, its_weight = running.popleft()
            weight -= its_weight
            yield oldest.result()
    for future, _ in running:
        yield future.result()


def batch(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


@contextlib.contextmanager
def open_pool(num_threads: int, *, nice: int = 0) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads; at the end what has not begun is dropped."""
    pool = ThreadPoolExecutor(num_threads, initializer=_be_nice, initargs=(nice,))
    try:
        yield pool
    finally:
        # What has not begun is not wanted after an error or an interrupt.
        pool.shutdown(cancel_futures=True)


def _be_nice(nice: int) -> None:
    """Let the threads that compute go first: they wait for each other, and decoding is ahead anyway."""
    if nice:
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + nice)
