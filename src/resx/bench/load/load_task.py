"""What a generator process is told: bytes and numbers only, so that it imports next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from resx.serving.client.address import Tls

DRAIN_S = 15.0
"""How long a generator waits for the answers to what it has sent, once it was told to stop."""
PROGRESS_S = 0.25
"""Between two words of how it goes."""
MAX_HEAD_BYTES = 2**16
"""Of a status line and headers."""
PAUSE_S = 0.05
"""Between a failure and the next try on that connection: a server that refuses at once is not asked in a tight loop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadTask:
    """One process's part of a load."""

    protocol: Literal["grpc", "http"]
    host_port: str
    requests: tuple[bytes, ...]
    """Sent in turn."""
    tls: Tls | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """gRPC's metadata; HTTP's are in the requests."""
    concurrency: int = 0
    rate_per_s: float = 0.0
    poisson: bool = True
    seed: tuple[int, int] = (0, 0)
    timeout_s: float = 60.0
    max_answer_bytes: int = 2**20
    """A longer answer, or a head beyond `MAX_HEAD_BYTES`, is a failure: a hostile server sends without end."""


def due_times(task: LoadTask, start_ns: int) -> Iterator[int]:
    """Yield when requests fall due, in ns, without end: a Poisson process, or evenly."""
    import numpy as np

    random = np.random.default_rng(task.seed)
    mean_ns = 1e9 / task.rate_per_s
    if not task.poisson:
        # Processes of one load interleave rather than send together.
        first = start_ns + mean_ns * (task.seed[1] % 97) / 97
        number = 0
        while True:
            yield int(first + number * mean_ns)
            number += 1
    now = float(start_ns)
    while True:
        for interval in random.exponential(mean_ns, size=1024).tolist():
            now += interval
            yield int(now)
