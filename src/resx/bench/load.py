"""Closed-loop load: a fixed number of requests in flight, each sent when the one before was answered.

A worker is a thread with a connection of its own that waits in the kernel, never polling: on a machine
that the server shares, a spinning client is measured instead of the server. Samples count if their answer
arrived inside the window; what was sent in the warm-up does not.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import ResxError, UsageError
from resx.serving.client import Address, Interface, TritonClient


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadPlan:
    """What a benchmark will send."""

    concurrency: int
    """Requests in flight."""
    batch_size: int = 1
    """Images in a request."""
    duration_s: float = 10.0
    warmup_s: float = 2.0
    seed: int = 0
    """Of the images, which are noise."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.concurrency > 1024:
            raise UsageError(f"concurrency={self.concurrency}: give 1 to 1024 requests in flight")
        if self.batch_size < 1:
            raise UsageError(f"batch_size={self.batch_size}: give 1 or more images")
        if not self.duration_s > 0:
            raise UsageError(f"duration_s={self.duration_s}: give a time above 0 s")
        if not self.warmup_s >= 0:
            raise UsageError(f"warmup_s={self.warmup_s}: give a time of 0 s or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What was seen in the measured time."""

    latencies_s: tuple[float, ...]
    """Of the answered requests, ascending."""
    errors: dict[str, int]
    """Messages, and how many requests ended with each."""
    window_s: float
    client_cpu_s: float
    """Processor time of this process in the window."""


class _Shared:
    """What the workers and the one who waits for them share."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.measuring = threading.Event()


def closed_loop(
    address: Address, model: str, interface: Interface, plan: LoadPlan, version: int | None = None, *,
    at_edge: Callable[[], None] = lambda: None,
) -> Window:  # fmt: skip
    """Run the plan and return its window; `at_edge` is called as the window opens and as it closes.

    Raises:
        UsageError: the model takes no batch of that size.
        ResxError: the first request failed; the server's own reason.
    """
    if plan.batch_size > max(1, interface.max_batch_size):
        raise UsageError(
            f"batch_size={plan.batch_size}: {model} takes {max(1, interface.max_batch_size)} at most; "
            "`resx export --max-batch` sets that"
        )
    if interface.fixed_batch and plan.batch_size != interface.max_batch_size:
        raise UsageError(
            f"batch_size={plan.batch_size}: {model} takes exactly {interface.max_batch_size}; "
            f"give --batch-size {interface.max_batch_size}"
        )
    images = request_images(interface, plan.batch_size, plan.seed)
    with TritonClient(address) as client:
        client.infer(model, interface, images, version)
    shared = _Shared()
    workers = [_Worker(address, model, interface, images, version, shared) for _ in range(plan.concurrency)]
    for worker in workers:
        worker.start()
    try:
        time.sleep(plan.warmup_s)
        at_edge()
        cpu, opened = time.process_time(), time.perf_counter()
        shared.measuring.set()
        time.sleep(plan.duration_s)
        shared.measuring.clear()
        closed, cpu_after = time.perf_counter(), time.process_time()
        at_edge()
    finally:
        shared.stop.set()
        for worker in workers:
            worker.join()
    latencies = sorted(latency for worker in workers for latency in worker.latencies_s)
    errors: Counter[str] = sum((worker.errors for worker in workers), Counter())
    return Window(
        latencies_s=tuple(latencies),
        errors=dict(errors),
        window_s=closed - opened,
        client_cpu_s=cpu_after - cpu,
    )


def request_images(interface: Interface, batch_size: int, seed: int) -> npt.NDArray[Any]:
    """Return one request's input [N, ...]: seeded noise in the model's input type."""
    shape = (batch_size, *interface.input_dims)
    random = np.random.default_rng(seed)
    if interface.input_type == "UINT8":
        return random.integers(0, 256, size=shape, dtype=np.uint8)
    return random.standard_normal(shape, dtype=np.float32)


class _Worker(threading.Thread):
    """One request in flight at a time."""

    def __init__(
        self, address: Address, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None,
        shared: _Shared,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.latencies_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self._address, self._model, self._interface = address, model, interface
        self._images, self._version, self._shared = images, version, shared

    def run(self) -> None:
        """Send until told to stop."""
        with TritonClient(self._address) as client:
            while not self._shared.stop.is_set():
                sent = time.perf_counter()
                try:
                    client.infer(self._model, self._interface, self._images, self._version)
                except ResxError as error:
                    if self._shared.measuring.is_set():
                        self.errors[str(error)] += 1
                    # A server that refuses at once must not be asked in a tight loop.
                    self._shared.stop.wait(0.05)
                else:
                    if self._shared.measuring.is_set():
                        self.latencies_s.append(time.perf_counter() - sent)
