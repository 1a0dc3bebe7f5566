"""How `resx bench` shows what it measured."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from resx.cli.fitting_table import Cell
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_next, verdict
from resx.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.bench.load.request_times import LoadProgress
    from resx.bench.loadgen import ScenarioResult
    from resx.bench.results.gpu_sampling import GpuUse
    from resx.bench.results.result import BenchResult, Measurement, Ratio
    from resx.bench.results.server_use import ServerUse
    from resx.errors import ResxError

COLUMNS = ["load", "batch", "images/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed",
           "queue ms", "compute ms", "mean batch", "client ms"]  # fmt: skip
_LEAST = ("client ms", "service p50 ms", "server ms", "compute ms", "queue ms", "batch", "mean batch", "max ms",
          "p90 ms", "failed")  # fmt: skip
"""In which order they go where a terminal is narrow."""


def progress_text(progress: LoadProgress, left_s: float) -> str:
    """Return how a load goes, in one line."""
    from resx.bench.load.load_task import PROGRESS_S

    shown = "  p50 {:.2f} ms  p99 {:.2f} ms".format(*progress.latencies_ms) if progress.latencies_ms else ""
    failed = f"  {progress.failed} failed" if progress.failed else ""
    per_s = progress.answered / PROGRESS_S
    return f"{per_s:.0f}/s{shown}{failed}  {progress.in_flight} in flight  {max(0.0, left_s):.0f} s left"


def show_result(
    out: Output, result: BenchResult, next_step: str, error: ResxError | KeyboardInterrupt | None = None
) -> None:
    """Print a benchmark, and what to do next where its figures may be used; in JSON the error that it ends with."""

    def show(console: Console) -> None:
        _show(console, result)
        if error is None:
            show_next(console, next_step)

    out.result(result.model_dump(mode="json"), show, error)


def _show(console: Console, result: BenchResult) -> None:
    environment = result.environment
    shared = ", shared with the server" if environment.server_is_local else ""
    server = ", ".join(filter(None, (environment.server_kind, environment.server_threads)))
    print_text(
        console,
        f"{result.model} on {result.url}, Triton {environment.triton} ({server}); "
        f"{environment.machine}, client: {environment.usable_cores} cores{shared}",
    )
    if environment.cpu_quota is not None:
        console.print(f"client CPU quota (control group): {environment.cpu_quota:g} cores", markup=False)
    targets = {measured.target for measured in result.measurements}
    has_open = any(measured.load == "open" for measured in result.measurements)
    efficient = any(measured.in_process for measured in result.measurements)
    knows_use = any(measured.server_use for measured in result.measurements)
    columns = [
        *(["model"] if len(targets) > 1 else []),
        *COLUMNS,
        *(["server ms"] if knows_use else []),
        *(["service p50 ms"] if has_open else []),
        *(["of in-process"] if efficient else []),
    ]
    rows = []
    for measured in result.measurements:
        cells = [*([measured.target] if len(targets) > 1 else []), *row(measured)]
        use = measured.server_use
        cells += [_ms(use.cpu_ms_per_request if use else None)] if knows_use else []
        cells += [_ms(measured.service.p50_ms)] if has_open else []
        if efficient:
            cells.append(f"{measured.in_process.efficiency:.2f}" if measured.in_process else "n/a")
        rows.append(cells)
    left = 2 if len(targets) > 1 else 1
    console.print(table("", columns, rows, left=left, least=_LEAST))
    if front := front_rows(result):
        console.print(table("", ["model", "blocks", "accuracy %", "p50 ms", "images/s", "front"], front))
        console.print("front, *: no other model is better in both accuracy and latency", markup=False)
    for text in _remarks(result):
        if text.startswith("INVALID") or ": INVALID" in text:
            print_text(console, verdict(text, good=False))
        else:
            print_text(console, text)


def front_rows(result: BenchResult) -> list[list[str]]:
    """Return a row for each model whose card names its accuracy, the most accurate first; none of fewer than two."""
    members: list[tuple[str, float, str, float, float]] = []
    for target, facts in result.models.items():
        p50s = [m.p50_ms for m in result.measurements if m.target == target and m.p50_ms is not None]
        rates = [m.images_per_s for m in result.measurements if m.target == target]
        if "accuracy" in facts and p50s:
            blocks = f"{facts['kept_blocks']} of {facts['blocks']}"
            members.append((target, float(facts["accuracy"]), blocks, median(p50s), median(rates)))
    if len(members) < 2:
        return []
    members.sort(key=lambda member: (-member[1], member[3]))
    rows, fastest = [], float("inf")
    for target, accuracy, blocks, p50_ms, rate in members:
        is_on_front, fastest = p50_ms < fastest, min(fastest, p50_ms)
        rows.append([target, blocks, f"{100 * accuracy:.2f}", _ms(p50_ms), f"{rate:.1f}", "*" if is_on_front else ""])
    return rows


def _remarks(result: BenchResult) -> Iterator[str]:
    """Yield what is said below the table: verdicts first, each once with the loads that it is about."""
    said: dict[str, list[str]] = {}
    for measured in result.measurements:
        for reason in measured.invalid:
            said.setdefault(f"INVALID: {reason}", []).append(measured.title)
        for remark in measured.remarks:
            said.setdefault(remark, []).append(measured.title)
    for text, titles in said.items():
        everywhere = len(titles) == len(result.measurements)
        yield text if everywhere else f"{', '.join(dict.fromkeys(titles))}: {text}"
    for measured in result.measurements:
        yield from (f"{measured.title}: {gpu_line(gpu)}" for gpu in measured.gpus or ())
    yield from _memory_lines(result)
    checked = sum(measured.answers.checked for measured in result.measurements)
    if checked and not any(measured.answers.wrong for measured in result.measurements):
        yield f"{checked} responses checked against {result.measurements[0].answers.reference}, all correct"
    for entry in result.repeated:
        p50 = f", p50 {entry.p50_ms.mean:.2f} ± {entry.p50_ms.half_width:.2f} ms" if entry.p50_ms else ""
        p99 = f", p99 {entry.p99_ms.mean:.2f} ± {entry.p99_ms.half_width:.2f} ms" if entry.p99_ms else ""
        yield (
            f"{entry.target}, {entry.title}, {entry.num_runs} runs: {entry.images_per_s.mean:.1f} ± "
            f"{entry.images_per_s.half_width:.1f} images/s{p50}{p99} (95% interval)"
        )
    yield from map(_ratio_text, result.ratios)
    if result.slo:
        yield _slo_text(result.slo)


def gpu_line(gpu: GpuUse) -> str:
    """Return what a GPU did during a load: means, with least and most."""
    from resx.serving.running.gpu_use import SOURCES

    busy, memory, power = gpu.utilization, gpu.memory_used_bytes, gpu.power_w
    parts = [
        f"{busy.mean:.0%} busy ({busy.min:.0%} to {busy.max:.0%})" if busy else "",
        memory_text(memory.max, gpu.memory_total_bytes) if memory else "",
        f"{power.mean:.0f} W ({power.min:.0f} to {power.max:.0f})" if power else "",
    ]
    return f"GPU {gpu.name}: {', '.join(filter(None, parts))}; from {SOURCES[gpu.source]}"


def _memory_lines(result: BenchResult) -> Iterator[str]:
    """Yield the most memory that each server took, or why that is not known."""
    uses: dict[str, list[ServerUse]] = {}
    for measured in result.measurements:
        if measured.server_use is not None:
            uses.setdefault(measured.url, []).append(measured.server_use)
    for url, seen in uses.items():
        most = max(seen, key=lambda use: use.memory_bytes)
        shared = "" if most.pss_bytes is None else f" (RSS {most.rss_bytes / 1e6:.0f} MB)"
        processes = f"{most.num_processes} process{'es' if most.num_processes > 1 else ''}"
        where = f" at {url}" if len(uses) > 1 else ""
        yield f"server memory{where}: at most {most.memory_bytes / 1e6:.0f} MB{shared}, {processes}"
    yield from dict.fromkeys(
        f"server memory and CPU time unknown: {measured.server_use_missing}"
        for measured in result.measurements
        if measured.server_use_missing
    )


def memory_text(used_bytes: float, total_bytes: int | None) -> str:
    """Return a GPU's memory in use."""
    return f"{used_bytes / 1e9:.1f}{f' of {total_bytes / 1e9:.1f}' if total_bytes else ''} GB"


def _ratio_text(ratio: Ratio) -> str:
    words = {"images_per_s": "throughput", "p50_ms": "p50", "p99_ms": "p99"}
    return (
        f"{ratio.target} / {ratio.base}, {words[ratio.what]} at {ratio.load}: {ratio.ratio:.3f} "
        f"(95% interval {ratio.low:.3f} to {ratio.high:.3f}, {ratio.num_pairs} pairs)"
    )


def _slo_text(slo: dict[str, float | str | bool | None]) -> str:
    if slo["rate_per_s"] is None:
        return f"no rate meets {slo['asked']}"
    limit = slo["client_limit_per_s"]
    more = (
        ""
        if limit is None
        else f"; the client could not send {limit:.4g}/s on time on this machine, so the server may reach a higher rate"
    )
    return (
        f"{slo['asked']} is met up to {slo['rate_per_s']:.4g}/s ({slo['reached_ms']:.2f} ms), "
        f"{slo['share_of_capacity']:.0%} of the closed loop's {_closed_loop_text(slo)}{more}"
    )


def _closed_loop_text(slo: dict[str, float | str | bool | None]) -> str:
    """Return the closed loop's rate before and after a search; results of older versions have the first alone."""
    before, after, wandered = (slo.get(key) for key in ("capacity_per_s", "capacity_after_per_s", "wandered"))
    if not isinstance(after, float) or not isinstance(wandered, float):
        return f"{before:.4g}/s"
    return f"{before:.4g}/s before and {after:.4g}/s after (the machine drifted by {wandered:+.0%})"


def show_scenario(out: Output, result: ScenarioResult, error: ResxError | None = None) -> None:
    """Print what LoadGen says, and in JSON the error that the command ends with."""
    rows: list[list[Cell]] = [
        [
            result.scenario,
            "n/a" if result.samples_per_s is None else f"{result.samples_per_s:.1f}",
            *(f"{value:.2f}" for value in (result.p50_ms, result.p90_ms, result.p99_ms, result.max_ms)),
            str(result.num_samples),
            str(sum(result.errors.values())),
            verdict("VALID" if result.valid else "INVALID", good=result.valid),
        ]
    ]
    columns = ["scenario", "samples/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "samples", "failed", "verdict"]

    def show(console: Console) -> None:
        console.print(f"{result.model}, LoadGen {result.loadgen_version}", markup=False)
        console.print(table("", columns, rows, least=("samples", "p90 ms", "max ms")))
        for text in (*(f"INVALID: {reason}" for reason in result.reasons), *result.remarks):
            print_text(console, text)
        print_text(console, f"logs: {result.summary}")

    out.result(result.model_dump(mode="json"), show, error)


def row(measured: Measurement) -> list[str]:
    """Return a measurement's cells under COLUMNS."""
    server = measured.server
    return [
        measured.title,
        str(measured.batch_size),
        f"{measured.images_per_s:.1f}",
        *(_ms(value) for value in (measured.p50_ms, measured.p90_ms, measured.p99_ms, measured.max_ms)),
        str(measured.failed),
        _ms(server.queue_ms if server else None),
        _ms(server.compute_ms if server else None),
        f"{server.mean_batch_size:.1f}" if server else "n/a",
        _ms(measured.client_cpu_ms_per_request),
    ]


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
