"""What the server took of its machine during each load, and what its GPUs did, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from resx.bench.report.html_parts import MISSING, Table, decimal, labels
from resx.bench.results.gpu_sampling import Spread
from resx.bench.results.result import Measurement
from resx.serving.running.gpu_use import SOURCES


def server_use_table(measurements: Sequence[Measurement]) -> str:
    """What the server took of its machine, or why nobody knows."""
    rows = [
        [
            name,
            MISSING if use.cpu_ms_per_request is None else decimal(use.cpu_ms_per_request, 2),
            decimal(use.cpu_s / measured.window_s, 2) if measured.window_s else MISSING,
            MISSING if use.pss_bytes is None else decimal(use.pss_bytes / 1e6, 0),
            decimal(use.rss_bytes / 1e6, 0),
            f"{use.num_processes:,}",
        ]
        for name, measured in zip(labels(measurements), measurements, strict=True)
        if (use := measured.server_use) is not None
    ]
    if not rows:
        why = next((measured.server_use_missing for measured in measurements if measured.server_use_missing), "")
        return f"<p>Memory and CPU time: unknown: {escape(why)}.</p>" if why else ""
    return Table(
        caption="What the server and its processes took of their machine, all loaded models included",
        headings=["Load", "CPU per request, ms", "Cores busy", "Memory (PSS), MB", "RSS, MB", "Processes"],
        rows=rows,
    ).html()


def gpus_table(measurements: Sequence[Measurement]) -> str:
    """What the server's GPUs did, where anything says."""
    rows = [
        [
            name,
            gpu.name,
            _spread(gpu.utilization, 100, 0),
            _spread(gpu.memory_used_bytes, 1e-9, 1),
            MISSING if gpu.memory_total_bytes is None else decimal(gpu.memory_total_bytes / 1e9, 1),
            _spread(gpu.power_w, 1, 0),
            f"{gpu.num_samples:,}",
            SOURCES[gpu.source],
        ]
        for name, measured in zip(labels(measurements), measurements, strict=True)
        for gpu in measured.gpus or ()
    ]
    if not rows:
        return ""
    return Table(
        caption="The server's GPUs during each load: mean (least to most), of all programs on them",
        headings=["Load", "GPU", "Busy, %", "Memory used, GB", "Memory, GB", "Power, W", "Samples", "From"],
        rows=rows,
        words=frozenset({1, 7}),
    ).html()


def _spread(spread: Spread | None, scale: float, digits: int) -> str:
    if spread is None:
        return MISSING
    least, mean, most = (decimal(scale * value, digits) for value in (spread.min, spread.mean, spread.max))
    return f"{mean} ({least} to {most})"
