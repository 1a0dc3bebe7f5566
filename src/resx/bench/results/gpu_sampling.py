"""What the server's GPUs did while a window was open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from resx.serving.running.gpu_use import GpuReader, GpuReading, Source
from resx.values import FrozenModel

INTERVAL_S = 0.5
"""Between two samples. NVML's own averages are over a sixth of a second to a second."""


class Spread(FrozenModel):
    """Of the samples of a window."""

    min: float
    mean: float
    max: float


class GpuUse(FrozenModel):
    """One GPU over a window. It computes for all programs, not for the model alone."""

    name: str
    source: Source
    num_samples: int
    utilization: Spread | None
    """Share of the time in which the GPU computed, 0 to 1; None, like the next, if unknown."""
    memory_used_bytes: Spread | None
    memory_total_bytes: int | None
    power_w: Spread | None


class GpuSampler:
    """Samples in a thread of its own from `start` to `stop`; without a reader it does nothing."""

    def __init__(self, reader: GpuReader | None, interval_s: float = INTERVAL_S) -> None:
        """Prepare; nothing is read yet."""
        self._reader, self._interval_s = reader, interval_s
        self._samples: list[tuple[GpuReading, ...]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        if self._reader is not None:
            self._thread = threading.Thread(target=self._sample, args=(self._reader.read,), daemon=True)
            self._thread.start()

    def stop(self) -> tuple[GpuUse, ...] | None:
        """End, and return what each GPU did; None where nothing is known."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        return None if self._reader is None else summary(self._samples, self._reader.source)

    def _sample(self, read: Callable[[], tuple[GpuReading, ...]]) -> None:
        is_over = False
        while not is_over:
            is_over = self._over.wait(self._interval_s)
            if is_over and self._samples:  # a reading now would take in what came after the window
                return
            if reading := read():
                self._samples.append(reading)


def summary(samples: Sequence[tuple[GpuReading, ...]], source: Source) -> tuple[GpuUse, ...] | None:
    """Return each GPU's least, mean and most; None where there is no sample."""
    found: dict[str, list[GpuReading]] = {}
    for reading in samples:
        for gpu in reading:
            found.setdefault(gpu.name, []).append(gpu)
    if not found:
        return None
    return tuple(
        GpuUse(
            name=name,
            source=source,
            num_samples=len(readings),
            utilization=_spread([gpu.utilization for gpu in readings]),
            memory_used_bytes=_spread([gpu.memory_used_bytes for gpu in readings]),
            memory_total_bytes=readings[-1].memory_total_bytes,
            power_w=_spread([gpu.power_w for gpu in readings]),
        )
        for name, readings in found.items()
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(min=min(known), mean=sum(known) / len(known), max=max(known)) if known else None
