"""What a fleet of Triton servers does with requests, event by event: queues, batches, instances, refusals.

A replica is one server. Its dynamic batcher takes, whenever an instance is free, the oldest requests of the queue up
to the largest batch. As core's dynamic_batch_scheduler.cc does it (github.com/triton-inference-server/core):

- of preferred sizes the largest that the queue fills is sent, else everything, once the oldest has waited the delay;
- batches are fetched ahead, two for each instance, and go on filling until an instance takes them;
- a queue policy ends that (in the embedded server a bound does not, `resx.serving.embedded.patches.batcher`), and an
instance that
  comes back is then missed at times: what waits is taken when the next request arrives, or when the batcher's sleep
  ends, counted from when it handed out a batch;
- what finds the queue full is refused.

Times are seconds here. Requests have one image each. A latency is from arrival to answer; inf: refused.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.bench.load.load_plan import Arrivals
from resx.errors import UsageError

Floats: TypeAlias = npt.NDArray[np.float64]
Balancing: TypeAlias = Literal["random", "round-robin", "least-connections"]
BALANCINGS: tuple[Balancing, ...] = ("random", "round-robin", "least-connections")

_FREE, _WAKE = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How one server joins requests into batches."""

    max_batch_size: int = 1
    instances: int = 1
    preferred_sizes: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    """How long the oldest request may wait for others."""
    max_queue_size: int = 0
    """Requests that may wait, with those that are fetched ahead; 0: any number."""
    sleep_s: float = 0.0
    """How long the batcher sleeps if nobody wakes it; 0: it fetches ahead, and no instance is left waiting."""
    missed: float = 0.0
    """Share of the instances' returns that a sleeping batcher misses."""

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.instances < 1:
            raise UsageError(f"max_batch_size={self.max_batch_size}, instances={self.instances}: give 1 or more")
        if min(self.max_delay_s, self.max_queue_size, self.sleep_s) < 0:
            raise UsageError("max_delay_s, max_queue_size, sleep_s: give 0 or more")
        if not 0 <= self.missed <= 1:
            raise UsageError(f"missed={self.missed}: give a share in [0, 1]")
        if any(not 1 <= size <= self.max_batch_size for size in self.preferred_sizes):
            raise UsageError(f"preferred_sizes={self.preferred_sizes}: give 1 to {self.max_batch_size}")

    def takes(self, waiting: int, oldest_wait_s: float) -> int:
        """Return how many of the waiting requests the next batch has; 0: it waits for more."""
        most = min(waiting, self.max_batch_size)
        late = self.max_delay_s > 0 and oldest_wait_s >= self.max_delay_s * (1 - 1e-9)
        preferred = [size for size in self.preferred_sizes or (self.max_batch_size,) if size <= most]
        if preferred and not late:
            return max(preferred)
        return most if late or self.max_delay_s == 0 else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """How long an instance is busy with a batch."""

    mean_s: tuple[float, ...]
    """By batch size, from 1, of a batch that was waiting."""
    rested_s: tuple[float, ...] = ()
    """The same of a batch that found its instance without work: core and caches have turned to something else. Empty:
    it takes no longer."""
    shape: tuple[float, ...] = (1.0,)
    """Equally likely factors of the mean; their own mean is 1."""
    turnaround_s: tuple[float, ...] = (0.0,)
    """From an instance's answer until it can take the next batch, by the answered batch's size; the last one for all
    larger."""
    overhead_s: float = 0.0
    """Of a request outside queue and computation."""

    def capacity_per_s(self, batching: Batching) -> float:
        """Return what one replica can answer at most, in full batches."""
        size = batching.max_batch_size
        return batching.instances * size / (self.mean_s[size - 1] + self.turnaround_after(size))

    def turnaround_after(self, size: int) -> float:
        """Return the turnaround after a batch, in seconds."""
        return self.turnaround_s[min(size, len(self.turnaround_s)) - 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What arrives at all replicas together."""

    rate_per_s: float
    arrivals: Arrivals = "poisson"
    balancing: Balancing = "random"
    replicas: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What became of the requests of one run, in the order of their arrival."""

    arrived_s: Floats
    latency_s: Floats
    """inf: refused."""
    batch_sizes: npt.NDArray[np.int64]
    """Of every batch, in the order in which they began."""
    busy: float
    """Share of the time that instances computed, turnaround not counted."""

    @property
    def refused(self) -> float:
        """Share of the requests."""
        return float(np.isinf(self.latency_s).mean())


def simulate(batching: Batching, service: Service, load: Load, *, requests: int, seed: int = 0) -> Simulated:
    """Let requests arrive, from an empty system, until all are answered.

    Replicas that are chosen at random or in turn do not depend on each other, and are alike: then one of them is
    simulated, with what arrives at it. Least connections needs them all.

    Args:
        batching: of each replica.
        service: of each instance.
        load: that arrives.
        requests: to simulate in all.
        seed: of arrivals, service times and choices.
    """
    rng = np.random.default_rng(seed)
    together = load.balancing == "least-connections" and load.replicas > 1
    arrived = _arrivals(load, requests, rng, thinned=not together)
    fleet = _Fleet(batching, service, load.replicas if together else 1, arrived, rng)
    fleet.run()
    latency = np.asarray(fleet.latency)
    ended = fleet.ended_s
    return Simulated(
        arrived_s=arrived,
        latency_s=latency,
        batch_sizes=np.asarray(fleet.batch_sizes, np.int64),
        busy=fleet.busy_s / (ended * batching.instances * fleet.num_replicas) if ended else 0.0,
    )


def _arrivals(load: Load, requests: int, rng: np.random.Generator, *, thinned: bool) -> Floats:
    """Return when requests arrive, at one replica (`thinned`) or at all."""
    parts = load.replicas if thinned else 1
    in_turn = load.balancing == "round-robin"
    gap_s = 1 / load.rate_per_s
    gaps: Floats
    if load.arrivals == "poisson":
        gaps = rng.gamma(parts, gap_s, requests) if in_turn else rng.exponential(parts * gap_s, requests)
    elif in_turn or parts == 1:
        gaps = np.full(requests, parts * gap_s)
    else:
        gaps = np.asarray(gap_s * rng.geometric(1 / parts, requests), np.float64)
    moments: Floats = np.cumsum(gaps)
    return moments


@dataclass(slots=True)
class _Replica:
    """One server, under way."""

    idle: int
    """Instances that wait for a batch."""
    asleep_s: float = 0.0
    """Since when the batcher sleeps."""
    queue: deque[int] = field(default_factory=deque)
    in_flight: int = 0


class _Fleet:
    """The replicas, and what is to happen next."""

    def __init__(
        self, batching: Batching, service: Service, replicas: int, arrived: Floats, rng: np.random.Generator
    ) -> None:
        self._batching, self._service = batching, service
        self._replicas = [_Replica(idle=batching.instances) for _ in range(replicas)]
        self._arrived: list[float] = arrived.tolist()
        self._factors: list[float] = rng.choice(np.asarray(service.shape), len(arrived)).tolist()
        self._missed: list[bool] = (rng.random(len(arrived)) < batching.missed).tolist()
        self._rested = service.rested_s or service.mean_s
        self._simple = not batching.preferred_sizes and not batching.max_delay_s
        self._events: list[tuple[float, int, int, int]] = []  # when, what, replica, answered by it
        self._least = [(0, number, number) for number in range(replicas)]  # in flight, stamp, replica
        self._stamps = replicas
        self.num_replicas = replicas
        self.latency = [math.inf] * len(arrived)
        self.batch_sizes: list[int] = []
        self.busy_s = self.ended_s = 0.0

    def run(self) -> None:
        """Go through all events."""
        events, bound, single = self._events, self._batching.max_queue_size, self.num_replicas == 1
        for request, now_s in enumerate(self._arrived):
            while events and events[0][0] <= now_s:
                self._happen(*heapq.heappop(events))
            number = 0 if single else self._choose()
            replica = self._replicas[number]
            if bound and len(replica.queue) >= bound:
                continue
            replica.queue.append(request)
            if not single:
                self._count(number, 1)
            if replica.idle:
                self._hand_out(now_s, number, self._rested)
        while events:
            self._happen(*heapq.heappop(events))

    def _happen(self, now_s: float, what: int, number: int, answered: int) -> None:
        replica = self._replicas[number]
        if what == _FREE:
            replica.idle += 1
            if self.num_replicas > 1:
                self._count(number, -answered)
            if not replica.queue:
                return
            sleep_s = self._batching.sleep_s
            if sleep_s and self._missed[len(self.batch_sizes) - 1]:
                ticks = math.ceil((now_s - replica.asleep_s) / sleep_s)
                heapq.heappush(self._events, (replica.asleep_s + ticks * sleep_s, _WAKE, number, 0))
                return
        if replica.queue and replica.idle:
            self._hand_out(now_s, number, self._service.mean_s if what == _FREE else self._rested)

    def _hand_out(self, now_s: float, number: int, mean_s: tuple[float, ...]) -> None:
        """Give batches to the instances that wait, as the batcher does when it is awake."""
        replica, batching, service = self._replicas[number], self._batching, self._service
        queue, largest = replica.queue, batching.max_batch_size
        replica.asleep_s = now_s
        while replica.idle and queue:
            size = min(len(queue), largest)
            if not self._simple:
                oldest_s = self._arrived[queue[0]]
                size = batching.takes(len(queue), now_s - oldest_s)
                if not size:
                    heapq.heappush(self._events, (oldest_s + batching.max_delay_s, _WAKE, number, 0))
                    return
            taken_s = mean_s[size - 1] * self._factors[len(self.batch_sizes)]
            self.batch_sizes.append(size)
            self.busy_s += taken_s
            done_s = now_s + taken_s
            answered_s = done_s + service.overhead_s
            for _ in range(size):
                request = queue.popleft()
                self.latency[request] = answered_s - self._arrived[request]
            replica.idle -= 1
            self.ended_s = max(self.ended_s, done_s)
            heapq.heappush(self._events, (done_s + service.turnaround_after(size), _FREE, number, size))

    def _choose(self) -> int:
        """Return the replica with the fewest requests in flight; of several the one that was so longest."""
        least = self._least
        while least[0][0] != self._replicas[least[0][2]].in_flight:
            heapq.heappop(least)
        return least[0][2]

    def _count(self, number: int, change: int) -> None:
        replica = self._replicas[number]
        replica.in_flight += change
        self._stamps += 1
        heapq.heappush(self._least, (replica.in_flight, self._stamps, number))
