"""Where a request's time went, in the server's own words: differences of Triton's statistics.

Source: github.com/triton-inference-server/server, docs/protocol/extension_statistics.md. Times there are
sums in nanoseconds over executed requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic

from resx.values import FrozenModel

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
    batch_compute_ms: dict[int, float] = pydantic.Field(default_factory=dict)
    """Mean time of one run (input, infer and output) on each number of images; empty in results of older versions."""

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
    runs, times_ns = (_difference(before, after, what) for what in ("count", "ns"))
    batches = {size: count for size, count in sorted(runs.items()) if count > 0}
    return ServerBreakdown(
        requests=requests,
        executions=executions,
        mean_batch_size=images / executions,
        **mean_ms,
        batches=batches,
        batch_compute_ms={size: times_ns[size] / count / 1e6 for size, count in batches.items()},
    )


def _difference(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], what: Literal["count", "ns"]
) -> Counter[int]:
    """Return the runs by batch size, or the time that they took in all phases, between two readings."""
    sums: Counter[int] = Counter()
    for statistics, sign in ((after, 1), (before, -1)):
        for version in statistics:
            for batch in version.get("batch_stats", ()):
                phases = ("compute_infer",) if what == "count" else _PHASES[1:]
                sums[int(batch["batch_size"])] += sign * sum(int(batch.get(phase, {}).get(what, 0)) for phase in phases)
    return sums


def _total(statistics: Sequence[Mapping[str, Any]], phase: str, what: str) -> int:
    return sum(int(version["inference_stats"].get(phase, {}).get(what, 0)) for version in statistics)


def _sum(statistics: Sequence[Mapping[str, Any]], what: str) -> int:
    return sum(int(version.get(what, 0)) for version in statistics)
