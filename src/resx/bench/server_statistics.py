"""Where a request's time went, in the server's own words: differences of Triton's statistics.

Source: github.com/triton-inference-server/server, docs/protocol/extension_statistics.md. Times there are
sums in nanoseconds over executed requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    return ServerBreakdown(requests=requests, executions=executions, mean_batch_size=images / executions, **mean_ms)


def _total(statistics: Sequence[Mapping[str, Any]], phase: str, what: str) -> int:
    return sum(int(version["inference_stats"].get(phase, {}).get(what, 0)) for version in statistics)


def _sum(statistics: Sequence[Mapping[str, Any]], what: str) -> int:
    return sum(int(version.get(what, 0)) for version in statistics)
