"""How many replicas hold a bound, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.fitting_table import Cell
from resx.cli.marks import show_done, verdict
from resx.cli.output import print_lines, table

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
    columns = ["replicas", "p50 ms", "p99 ms", "used %", "mean batch", "refused %", "holds"]
    console.print(table("", columns, [_row(one) for one in shown], left=0, least=("mean batch", "p50 ms")))
    lines = [
        f"headroom: they meet it up to {found.highest_rate_per_s:.4g}/s, {found.headroom:.2f} of the requested rate; "
        f"with full batches a replica answers {found.capacity_per_s:.4g}/s",
        "one lost: " + _after_a_loss(found),
        f"computation by batch size, ms: {means}; outside of it {times.overhead_ms:.2f} ms; a single request "
        f"{found.alone_ms:.3g} ms",
    ]
    if found.cost_per_hour is not None and found.cost_per_million is not None:
        lines.append(f"cost: {found.cost_per_hour:.4g} an hour, {found.cost_per_million:.4g} per million requests")
    lines.append("simulated from one machine's service times; docs/capacity.md says how far to trust it")
    if plot is not None:
        lines.append(f"wrote {plot}")
    print_lines(console, lines)


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
        return "nothing answers; 2 replicas would still meet it"
    if fewer.p99_ms is None:
        return f"{fewer.replicas} are overloaded and refuse {fewer.refused:.1%}; {found.replicas + 1} hold it then too"
    return (
        f"p99 {fewer.p99_ms.mean:.1f} ms, {fewer.refused:.2%} refused; {found.replicas + 1} replicas would still meet "
        "it"
    )
