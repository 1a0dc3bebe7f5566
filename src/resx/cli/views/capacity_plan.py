"""How many replicas hold a bound, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.fitting_table import Cell
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done, verdict
from resx.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.bench.capacity.capacity_plan import CapacityPlan, Estimate
    from resx.bench.results.result import Interval


def show_plan(console: Console, found: CapacityPlan, plot: Path | None) -> None:
    """Print the number, how far it is from the bound, and what one replica less would do."""
    times = found.service
    means = ", ".join(f"{size}: {times.mean_ms[size - 1]:.2f}" for size in times.runs if size <= len(times.mean_ms))
    how_many = f"{found.replicas} replicas meet" if found.replicas > 1 else "1 replica meets"
    load = f"{found.rate_per_s:g}/s ({found.arrivals}, {found.balancing})"
    show_done(console, f"{found.model}: {how_many} {found.slo} at {load}")
    shown = [found.expected] if found.one_fewer is None else [found.expected, found.one_fewer]
    columns = ["replicas", "p50 ms", "p99 ms", "busy %", "mean batch", "refused %", "meets it"]
    console.print(table("", columns, [_row(one) for one in shown], left=0, least=("mean batch", "p50 ms")))
    lines = [
        f"Headroom: {found.highest_rate_per_s:,.4g} requests/s ({found.headroom:.0%} of the requested rate); "
        f"one replica can answer {found.capacity_per_s:,.4g}/s in full batches",
        f"If one replica fails: {_after_a_loss(found)}",
        f"Model time by batch size, ms: {means}; overhead: {times.overhead_ms:.2f} ms per request; "
        f"a single request takes {found.alone_ms:.3g} ms",
    ]
    if found.cost_per_hour is not None and found.cost_per_million is not None:
        lines.append(f"Cost: {found.cost_per_hour:.4g} per hour, {found.cost_per_million:.4g} per million requests")
    lines.append("Simulated from this measurement of one machine; docs/capacity.md describes how accurate that is")
    for line in lines:
        print_text(console, line)
    if plot is not None:
        print_text(console, f"wrote {plot}")


def _row(one: Estimate) -> list[Cell]:
    return [
        str(one.replicas),
        _ms(one.p50_ms),
        _ms(one.p99_ms),
        f"{100 * one.utilisation:.0f}",
        f"{one.mean_batch_size:.1f}",
        f"{100 * one.refused:.2f}",
        verdict("yes" if one.holds else "no", good=one.holds),
    ]


def _ms(value: Interval | None) -> str:
    return "n/a" if value is None else f"{value.mean:.2f} ± {value.half_width:.2f}"


def _after_a_loss(found: CapacityPlan) -> str:
    fewer = found.one_fewer
    if fewer is None:
        return "no server is left; run 2 to survive that"
    more = f"run {found.replicas + 1} to survive that"
    if fewer.p99_ms is None:
        return f"{fewer.replicas} are overloaded and refuse {fewer.refused:.1%} of the requests; {more}"
    return f"p99 {fewer.p99_ms.mean:.1f} ms, {fewer.refused:.2%} of the requests refused; {more}"
