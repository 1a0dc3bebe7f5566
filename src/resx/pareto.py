"""What nothing else beats in two costs at once: blocks and accuracy, latency and accuracy, throughput and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(found: Iterable[T], costs: Callable[[T], tuple[float, float]]) -> list[T]:
    """Return those for which no other costs as little or less in both, from the least first cost to the least second.

    Of some that cost the same in both the first stays.
    """
    kept: list[T] = []
    for one in sorted(found, key=costs):
        if not kept or costs(one)[1] < costs(kept[-1])[1]:
            kept.append(one)
    return kept
