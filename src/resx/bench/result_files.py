"""A benchmark's files: JSON, CSV, JSONL of samples, HDR log, HTML. All are written whole, and checked before the load.

The CSV has the columns of perf_analyzer's report (docs/measurements_metrics.md of triton-inference-server/
perf_analyzer), so that what reads those reads this; times there are microseconds. Two of ours follow.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.bench.results.result import BenchResult, Measurement
from resx.bench.results.samples import Samples
from resx.errors import UsageError
from resx.files.staging import staging_folder, write_atomic
from resx.text import one_line

CSV_COLUMNS = (
    "Concurrency", "Request Rate", "Inferences/Second", "Client Send", "Network+Server Send/Recv", "Server Queue",
    "Server Compute Input", "Server Compute Infer", "Server Compute Output", "Client Recv", "p50 latency",
    "p90 latency", "p95 latency", "p99 latency", "Avg latency", "Server CPU/Request", "Server Memory Bytes",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultFiles:
    """Which files to write; None: not that one."""

    json: Path | None = None
    csv: Path | None = None
    samples: Path | None = None
    hdr_log: Path | None = None
    html: Path | None = None

    def require_writable(self) -> None:
        """Raise UsageError if one could not be written, before anything is measured."""
        for path in (self.json, self.csv, self.samples, self.hdr_log, self.html):
            if path is None:
                continue
            folder = path.parent
            if path.is_dir():
                raise UsageError(f"{path}: is a folder; give a file's path")
            if not folder.is_dir():
                raise UsageError(f"{path}: no such folder: {folder}; create it, or choose another path")
            try:
                with staging_folder(folder):  # permissions alone say yes of a full disk, and to root of everything
                    pass
            except OSError as error:
                raise UsageError(
                    f"{path}: {folder} cannot be written to ({error.strerror}); give another path"
                ) from error


def write(wanted: ResultFiles, result: BenchResult, samples: Sequence[tuple[Measurement, Samples, int]]) -> list[Path]:
    """Write what is wanted and return the paths."""
    made: list[tuple[Path, str]] = []
    if wanted.json:
        made.append((wanted.json, result.model_dump_json(indent=2) + "\n"))
    if wanted.csv:
        made.append((wanted.csv, csv_text(result)))
    if wanted.samples:
        made.append((wanted.samples, samples_text(samples)))
    if wanted.hdr_log:
        made.append((wanted.hdr_log, hdr_log_text(result)))
    if wanted.html:
        from resx.bench.report.html_report import html

        made.append((wanted.html, html(result)))
    for path, text in made:
        write_atomic(path, text)
    return [path for path, _ in made]


def csv_text(result: BenchResult) -> str:
    """Return a line per measurement under perf_analyzer's columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for measured in result.measurements:
        server = measured.server
        phases = (
            (server.queue_ms, server.compute_input_ms, server.compute_infer_ms, server.compute_output_ms)
            if server
            else (0.0,) * 4
        )
        mean = measured.mean_ms or 0.0
        rest = max(0.0, mean - sum(phases))
        use = measured.server_use
        cpu_ms = use.cpu_ms_per_request if use else None
        latencies = (measured.p50_ms, measured.p90_ms, measured.p95_ms, measured.p99_ms, measured.mean_ms)
        writer.writerow(
            [
                measured.concurrency or "",
                f"{measured.rate_per_s:g}" if measured.rate_per_s else "",
                f"{measured.images_per_s:.6g}",
                0,
                round(1e3 * rest),
                *(round(1e3 * phase) for phase in phases),
                0,
                *("" if value is None else round(1e3 * value) for value in (*latencies, cpu_ms)),
                use.memory_bytes if use else "",
            ]
        )
    return text.getvalue()


def samples_text(samples: Sequence[tuple[Measurement, Samples, int]]) -> str:
    """Return a JSON object per request: its load, when it was due, sent and done (s from the window's opening)."""
    lines = []
    for measured, window, opened_ns in samples:
        for due, sent, done, kind in zip(
            window.due_ns.tolist(), window.sent_ns.tolist(), window.done_ns.tolist(), window.kind.tolist(), strict=True
        ):
            entry: dict[str, object] = {
                "target": measured.target,
                "load": measured.title,
                "repeat": measured.repeat,
                "due_s": round((due - opened_ns) / 1e9, 6),
                "sent_s": round((sent - opened_ns) / 1e9, 6),
                "done_s": round((done - opened_ns) / 1e9, 6),
            }
            if kind:
                entry["error"] = window.errors[kind - 1]
            lines.append(json.dumps(entry))
    return "".join(f"{line}\n" for line in lines)


def hdr_log_text(result: BenchResult) -> str:
    """Return an HDR log (version 1.3) with a tagged histogram in us for each measurement."""
    from hdrh.histogram import HdrHistogram

    lines = [
        "#[Histogram log format version 1.3]",
        f"#[Logged by resx {result.environment.resx}]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    start = 0.0
    for measured in result.measurements:
        if not measured.hdr:
            continue
        largest = HdrHistogram.decode(measured.hdr).get_max_value()
        tag = one_line(f"{measured.target} {measured.title} #{measured.repeat}").replace(",", " ").replace(" ", "_")
        lines.append(f"Tag={tag},{start:.3f},{measured.window_s:.3f},{largest / 1e3:.3f},{measured.hdr}")
        start += measured.window_s
    return "\n".join(lines) + "\n"
