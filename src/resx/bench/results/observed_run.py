"""What was observed while the generators ran: their records, the moments of the window, and what the server said.

Times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from resx.bench.load.request_times import Records
from resx.bench.results.gpu_sampling import GpuUse
from resx.bench.results.response_cache import Counts, cached_share
from resx.bench.results.samples import Samples
from resx.bench.results.server_statistics import ServerBreakdown, breakdown
from resx.bench.results.server_use import UseBefore
from resx.bench.results.window_figures import Window


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsReading:
    """The server's statistics, taken at some moment between two of ours; empty where the server is gone."""

    statistics: list[dict[str, Any]]
    begun_ns: int
    ended_ns: int
    cache: Counts | None
    """Of the response caches; None where the server is gone."""


@dataclass(slots=True)
class ObservedRun:
    """One run of the generators."""

    records: list[Records] = field(default_factory=list)
    opened_ns: int = 0
    closed_ns: int = 0
    cpu_s: float = 0.0
    interrupted: str = ""
    """Why the window closed early."""
    readings: list[StatisticsReading] = field(default_factory=list)
    throttled: tuple[str, ...] = ()
    """Who stood still for want of CPU quota, and how often."""
    gpus: tuple[GpuUse, ...] | None = None
    """What the server's GPUs did in the window."""
    use: UseBefore = field(default_factory=UseBefore)
    server_cpu_s: float = 0.0
    """Processor time of the server in the window."""
    cached_models: tuple[str, ...] = ()
    """That may answer from a response cache."""

    @property
    def server(self) -> ServerBreakdown | None:
        """What the server says of the time between the two readings."""
        statistics = [reading.statistics for reading in self.readings]
        return breakdown(*statistics) if len(statistics) == 2 and all(statistics) else None

    @property
    def cached_share(self) -> float | None:
        """Return which share of the answers between the two readings came from a response cache, if that is known."""
        return cached_share(self.readings[0].cache, self.readings[-1].cache) if self.readings else None

    def most_served(self, samples: Samples) -> int:
        """Return how many requests of ours the server can have counted: those open at some moment between readings.

        A reading takes the longer the busier the server is, and the load goes on during it.
        """
        if len(self.readings) < 2:
            return 0
        before, after = self.readings
        return int(((samples.done_ns >= before.begun_ns) & (samples.sent_ns <= after.ended_ns)).sum())

    @property
    def window(self) -> Window:
        """When the window opened and closed."""
        return Window(self.opened_ns, self.closed_ns)

    @property
    def window_s(self) -> float:
        """Length of the window."""
        return (self.closed_ns - self.opened_ns) / 1e9

    def answered_in_time(self, answered: Samples) -> int:
        """Return how many were answered in the window.

        What was due in the window of an open loop may have been answered after it: that is no throughput of the window.
        """
        return int(((answered.done_ns >= self.opened_ns) & (answered.done_ns < self.closed_ns)).sum())

    def samples_in_window(self, samples: Samples, *, is_open: bool) -> Samples:
        """Return those that belong to the window: by when they were due in an open loop, else by their answer."""
        moment = samples.due_ns if is_open else samples.done_ns
        return samples.where((moment >= self.opened_ns) & (moment < self.closed_ns))

    def sampled_answers(self) -> list[tuple[int, int, bytes]]:
        """Return the answers that were kept, from the window's opening on."""
        found = (answer for record in self.records for answer in record.answers)
        return [answer for answer in found if self.opened_ns <= answer[0]]
