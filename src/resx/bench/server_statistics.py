"""Where a request's time went, in the server's own words: differences of Triton's statistics.

Source: github.com/triton-inference-server/server, docs/protocol/extension_statistics.md. Times there are
sums in nanoseconds over executed requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from resx.zoo.spec import FrozenModel

_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


class ServerBreakdown(FrozenModel):
    """Means per request over the window, and how full the batches were."""

    requests: int
    executions: int
    """Runs of the model: fewer than requests where dynamic batching joined some."""
    mean_batch_size: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    batches: dict[int, int] = pydantic.Field(default_factory=dict)
    """How often the model ran on each number of images."""

    @property
    def compute_ms(self) -> float:
        """All of the computation."""
        return self.compute_input_ms + self.compute_infer_ms + self.compute_output_ms


def breakdown(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> ServerBreakdown | None:
    """Return what happened between two readings of a model's statistics; None if it answered nothing."""
    requests = _total(after, "success", "count") - _total(before, "success", "count")
    executions = _sum(after, "execution_count") - _sum(before, "execution_count")
    images = _sum(after, "inference_count") - _sum(before, "inference_count")
    if requests <= 0 or executions <= 0:
        return None
    mean_ms = {
        f"{phase}_ms": (_total(after, phase, "ns") - _total(before, phase, "ns")) / requests / 1e6 for phase in _PHASES
    }
    batches = _batches(after)
    batches.subtract(_batches(before))
    return ServerBreakdown(
        requests=requests, executions=executions, mean_batch_size=images / executions, **mean_ms,
        batches={size: count for size, count in sorted(batches.items()) if count > 0},
    )  # fmt: skip


def _batches(statistics: Sequence[Mapping[str, Any]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for version in statistics:
        for batch in version.get("batch_stats", ()):
            counts[int(batch["batch_size"])] += int(batch["compute_infer"].get("count", 0))
    return counts


def _total(statistics: Sequence[Mapping[str, Any]], phase: str, what: str) -> int:
    return sum(int(version["inference_stats"].get(phase, {}).get(what, 0)) for version in statistics)


def _sum(statistics: Sequence[Mapping[str, Any]], what: str) -> int:
    return sum(int(version.get(what, 0)) for version in statistics)
