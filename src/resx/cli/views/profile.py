"""Where a model's time goes, for people; no line is wider than 80 columns but for names that are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.marks import show_done, show_next
from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.runtimes.profiling.profile import Block, Layer, Profile, Work

_SHOWN = 10
_LEAST = ("MB", "GMAC")
_MOST_IN_NAME = 30


def show_profile(console: Console, found: Profile, *, every: bool, plot: Path | None, next_step: str) -> None:
    """Print the whole, the blocks and the layers; unless `every`, those that take longest and the rest in one row."""
    facts = (f"{found.run_ms:.4g} ms per run (median of {found.num_runs})", f"{found.images_per_s:.4g} images/s")
    show_done(console, f"Profiled {found.subject}", *facts, f"fastest {found.best_ms:.4g} ms")
    print_lines(console, _heading(found))
    counted = found.counted_us or 1.0
    blocks, layers = found.blocks, found.layers
    columns = ["ms", "time %", "GMAC", "GFLOP/s", "peak %", "MB"]
    block_rows = [[_block_name(one), *_figures(one, counted)] for one in _chosen(blocks, every=every)]
    layer_rows = [[_layer_name(one), *_figures(one, counted)] for one in _chosen(layers, every=every)]
    console.print(
        table("", ["block", *columns], [*block_rows, *_rest(blocks, block_rows, "blocks", counted)], least=_LEAST)
    )
    console.print(
        table("", ["layer", *columns], [*layer_rows, *_rest(layers, layer_rows, "layers", counted)], least=_LEAST)
    )
    lines = [
        "time: by the runtime's counters; GMAC: multiply-adds (1 is 2 FLOPs); MB: read and written",
        f"not attributed to a layer: {found.unattributed_us / 1000:.3g} ms",
        *(f"note: {note}" for note in found.notes),
    ]
    if plot is not None:
        lines.append(f"wrote {plot}")
    print_lines(console, lines)
    show_next(console, next_step)


def _heading(found: Profile) -> list[str]:
    hint = {None: "", "f32": ", fp32", "bf16": ", bf16"}[found.precision_hint]
    whole = found.total
    share = "" if whole.peak_share is None else f", {whole.peak_share:.0%} of the peak"
    peaks = "; ".join(f"{peak.gflops:.0f} GFLOP/s in {peak.computed_in}" for peak in found.peaks)
    return [
        f"{found.runtime} {found.runtime_version}{hint}, {found.threads} threads, batch {found.batch}",
        f"{found.processor}, {found.instruction_set}",
        f"fastest run: {2e-9 * whole.macs:.3g} GFLOP at {whole.gflops:.3g} GFLOP/s{share}, "
        f"{whole.traffic / 1e6:.3g} MB",
        f"peak: {peaks} ({found.peaks[0].measured_by})" if found.peaks else "peak: not measured",
        f"memory: {found.bandwidth.gb_per_s:.3g} GB/s ({found.bandwidth.measured_by})",
    ]


def _chosen(parts: Sequence[Block] | Sequence[Layer], *, every: bool) -> Sequence[Block | Layer]:
    return parts if every else _by_time(parts)[:_SHOWN]


def _by_time(parts: Sequence[Block] | Sequence[Layer]) -> list[Block | Layer]:
    return sorted(parts, key=lambda part: part.time_us, reverse=True)


def _rest(
    parts: Sequence[Block] | Sequence[Layer], shown: Sequence[Sequence[str]], what: str, counted_us: float
) -> list[list[str]]:
    from resx.runtimes.profiling.layer_times import sum_up

    left = _by_time(parts)[len(shown) :]
    return [[f"{len(left)} other {what}", *_figures(sum_up(left), counted_us)]] if left else []


def _figures(part: Work, counted_us: float) -> list[str]:
    return [
        f"{part.time_us / 1000:.3f}",
        f"{100 * part.time_us / counted_us:.1f}",
        f"{part.macs / 1e9:.3f}" if part.macs else "",
        f"{part.gflops:.0f}" if part.macs else "",
        "" if part.peak_share is None else f"{100 * part.peak_share:.0f}",
        f"{part.traffic / 1e6:.2f}",
    ]


def _block_name(block: Block | Layer) -> str:
    return _short(block.name)


def _layer_name(layer: Block | Layer) -> str:
    return _short(layer.name or "(not attributed)")


def _short(name: str) -> str:
    """Return a name that leaves the figures their columns: its end says more than its beginning."""
    return name if len(name) <= _MOST_IN_NAME else f"…{name[1 - _MOST_IN_NAME :]}"
