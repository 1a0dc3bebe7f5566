"""What a benchmark will send, decided before the first request leaves.

A closed loop keeps a number of requests in flight: each is sent when the one before was answered, so a slow server
is asked less. An open loop sends when a request is due, answered or not, as independent users do; latency then
counts from when the request was due, so that a stall delays all that fell due in it and not one request only
("coordinated omission": Gil Tene, How NOT to Measure Latency, 2015; MLPerf LoadGen's Server scenario does the same).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from resx.errors import UsageError

Arrivals: TypeAlias = Literal["poisson", "constant"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "constant")
MAX_CONCURRENCY = 1024
MAX_RATE_PER_S = 100_000.0
MAX_PROCESSES = 64
MAX_RATES = 1024
"""Of a range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadPlan:
    """One load: a closed loop (`concurrency`) or an open one (`rate_per_s`)."""

    concurrency: int = 0
    """Requests in flight; 0: an open loop."""
    rate_per_s: float = 0.0
    """Requests a second that fall due; 0: a closed loop."""
    arrivals: Arrivals = "poisson"
    """How requests of an open loop fall due: at random and independently, or evenly."""
    batch_size: int = 1
    """Images in a request."""
    duration_s: float = 10.0
    warmup_s: float = 2.0
    timeout_s: float = 60.0
    """After which a request counts as failed."""
    seed: int = 0
    """Of noise images and of Poisson arrivals."""
    processes: int = 1
    """That send. One makes many thousand requests a second; its own limit is measured with every run."""

    def __post_init__(self) -> None:
        if self.rate_per_s == 0 and not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise UsageError(f"concurrency={self.concurrency}: give 1 to {MAX_CONCURRENCY} requests in flight")
        if not 0 <= self.rate_per_s <= MAX_RATE_PER_S:
            raise UsageError(f"rate={self.rate_per_s:g}: give more than 0 and at most {MAX_RATE_PER_S:g} a second")
        if self.rate_per_s and self.concurrency:
            raise UsageError("rate and concurrency: a load is an open loop or a closed one; give one of them")
        if self.batch_size < 1:
            raise UsageError(f"batch_size={self.batch_size}: give 1 or more images")
        if not 0 < self.duration_s < float("inf"):
            raise UsageError(f"duration_s={self.duration_s}: give a time above 0 s")
        if not 0 <= self.warmup_s < float("inf"):
            raise UsageError(f"warmup_s={self.warmup_s}: give a time of 0 s or more")
        if not self.timeout_s > 0:
            raise UsageError(f"timeout_s={self.timeout_s}: give a time above 0 s")
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise UsageError(f"processes={self.processes}: give 1 to {MAX_PROCESSES}")
        if self.concurrency and self.processes > self.concurrency:
            raise UsageError(
                f"processes={self.processes}: more than {self.concurrency} requests in flight; give {self.concurrency}"
            )

    @property
    def is_open(self) -> bool:
        """Whether requests leave when they are due."""
        return self.rate_per_s > 0

    @property
    def title(self) -> str:
        """The load in a few words."""
        if self.is_open:
            return f"{self.rate_per_s:g}/s {self.arrivals}"
        return f"concurrency {self.concurrency}"


def concurrencies(text: str) -> list[int]:
    """Read `4`, `1,4,8`, `1:16` (doubling: 1, 2, 4, 8, 16) or `2:10:4` (in steps).

    Raises:
        UsageError: it is none of these.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?::(\d{1,6})(?::(\d{1,6}))?)?\s*", part)
        if match is None:
            raise UsageError(f"--concurrency {text}: give a number, a list such as 1,4,8, 1:16 or START:END:STEP")
        first, last, step = (int(group) if group else None for group in match.groups())
        assert first is not None
        if last is None:
            found.append(first)
            continue
        if first < 1 or last < first or step == 0:
            raise UsageError(f"--concurrency {part}: give START:END or START:END:STEP, ascending, from 1")
        if step is not None:
            found += range(first, last + 1, step)
            continue
        while first < last:
            found.append(first)
            first *= 2
        found.append(last)
    return found


def rates(text: str) -> list[float]:
    """Read `50`, `50,100,200` or `50:200:50` (in steps).

    Raises:
        UsageError: a part is not a number above 0, or no such range.
    """
    found: list[float] = []
    for part in text.split(","):
        try:
            numbers = [float(number) for number in part.split(":")]
        except ValueError as error:
            raise UsageError(
                f"--rate {text}: give requests a second: a number, a list such as 50,100, or START:END:STEP"
            ) from error
        if not all(0 < number <= MAX_RATE_PER_S for number in numbers):
            raise UsageError(f"--rate {text}: give more than 0 and at most {MAX_RATE_PER_S:g} requests a second")
        if len(numbers) == 1:
            found += numbers
        else:
            found += _rates_in_steps(part, numbers)
    return found


def _rates_in_steps(part: str, numbers: list[float]) -> list[float]:
    """Return the rates from a start to an end, both included if a step meets it."""
    if len(numbers) != 3 or numbers[1] < numbers[0]:
        raise UsageError(f"--rate {part}: a range is START:END:STEP, ascending; give 50:200:50")
    start, end, step = numbers
    count = int((end - start) / step + 1e-9) + 1
    if count > MAX_RATES:
        raise UsageError(f"--rate {part}: is {count} rates; give at most {MAX_RATES}, with a larger STEP")
    return [round(start + step * index, 9) for index in range(count)]
