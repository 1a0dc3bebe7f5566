"""What a generator notes of each request, in arrays, since a list of objects would cost more than the request.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass

import numpy as np

from resx.text import join_lines

MAX_KINDS = 32
MAX_KEPT = 512
NO_ANSWER = "no answer in time"


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """What one generator saw, as it travels to the process that reports."""

    due_ns: bytes
    sent_ns: bytes
    done_ns: bytes
    outcome: bytes
    """int16: 0 where it was answered, else 1 + its place in `errors`."""
    errors: tuple[str, ...]
    answers: tuple[tuple[int, int, bytes], ...]
    """A sample of the answers: when it came (ns), which payload it answers, its bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadProgress:
    """What happened since the last word, and the state of things."""

    answered: int
    failed: int
    in_flight: int
    latencies_ms: tuple[float, ...]
    """50th and 99th percentile of the newest answers; empty if there were none."""


class Recorder:
    """Notes requests, their errors, and a sample of the answers that grows thinner as there are more of them."""

    def __init__(self) -> None:
        self.due_ns, self.sent_ns, self.done_ns = array("q"), array("q"), array("q")
        self.outcome = array("h")
        self._errors: dict[str, int] = {}
        self._answers: list[tuple[int, int, bytes]] = []
        self._stride, self._countdown = 1, 1
        self._told = 0

    def answered(self, due_ns: int, sent_ns: int, payload: int, answer: bytes, done_ns: int = 0) -> None:
        """Note an answer that came at `done_ns`; 0: just now."""
        now = done_ns or time.monotonic_ns()
        self.due_ns.append(due_ns)
        self.sent_ns.append(sent_ns)
        self.done_ns.append(now)
        self.outcome.append(0)
        self._countdown -= 1
        if self._countdown == 0:
            self._countdown = self._stride
            self._answers.append((now, payload, bytes(answer)))
            if len(self._answers) > MAX_KEPT:
                self._answers = self._answers[::2]
                self._stride *= 2

    def failed(self, due_ns: int, sent_ns: int, error: str) -> None:
        """Note a request that got no answer, or another than it asked for."""
        message = join_lines(error)[:300]
        if message not in self._errors and len(self._errors) >= MAX_KINDS:
            message = "other errors"
        kind = self._errors.setdefault(message, len(self._errors) + 1)
        self.due_ns.append(due_ns)
        self.sent_ns.append(sent_ns)
        self.done_ns.append(time.monotonic_ns())
        self.outcome.append(kind)

    def progress(self, in_flight: int) -> LoadProgress:
        """Return what happened since this was last asked."""
        begin, end = self._told, len(self.outcome)
        self._told = end
        outcome = np.array(self.outcome[begin:end])
        latencies = (np.array(self.done_ns[begin:end]) - np.array(self.due_ns[begin:end]))[outcome == 0] / 1e6
        shown = tuple(np.percentile(latencies, (50, 99)).tolist()) if len(latencies) else ()
        return LoadProgress(
            answered=len(latencies), failed=end - begin - len(latencies), in_flight=in_flight, latencies_ms=shown
        )

    def records(self) -> Records:
        """Return everything."""
        return Records(
            due_ns=self.due_ns.tobytes(),
            sent_ns=self.sent_ns.tobytes(),
            done_ns=self.done_ns.tobytes(),
            outcome=self.outcome.tobytes(),
            errors=tuple(self._errors),
            answers=tuple(self._answers),
        )
