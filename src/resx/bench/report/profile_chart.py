"""A profile as a picture: the roofline with its layers, and the blocks' times as bars."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from resx.figures import Figure, Look

if TYPE_CHECKING:
    from resx.runtimes.profiling.profile import Profile

_BARS = 24


def profile_figure(found: Profile) -> Figure:
    """Return the figure."""
    hint = {None: "", "f32": " fp32", "bf16": " bf16"}[found.precision_hint]
    share = "" if found.total.peak_share is None else f", {found.total.peak_share:.0%} of the peak"
    caption = (
        f"{found.subject}: {found.runtime} {found.runtime_version}{hint}, {found.threads} threads, batch {found.batch}"
        f": {found.run_ms:.3g} ms a run{share}; {found.processor}"
    )
    return Figure(name="profile", panels=(partial(_draw_roofline, found), partial(_draw_bars, found)), caption=caption)


def _draw_roofline(found: Profile, axes: Any, look: Look) -> None:
    layers = [layer for layer in found.layers if layer.macs and layer.traffic and layer.time_us]
    intensities = [2 * layer.macs / layer.traffic for layer in layers]
    widest = np.geomspace(min([*intensities, 1.0]) / 2, max([*intensities, 100.0]) * 2, 200)
    for peak, style in zip(found.peaks, ("-", "--"), strict=False):
        roof = np.minimum(peak.gflops, widest * found.bandwidth.gb_per_s)
        axes.plot(widest, roof, style, color=look.text, linewidth=1.2, label=f"peak, {peak.computed_in}")
    sizes = [12 + 400 * layer.time_us / (found.counted_us or 1) for layer in layers]
    axes.scatter(
        intensities,
        [layer.gflops for layer in layers],
        s=sizes,
        color=look.main,
        alpha=0.6,
        linewidth=0,
        zorder=3,
        label="a layer; its area is its time",
    )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs for each byte read or written", ylabel="GFLOP/s")
    axes.legend(fontsize=7, loc="lower right")


def _draw_bars(found: Profile, axes: Any, look: Look) -> None:
    longest = sorted(found.blocks, key=lambda block: -block.time_us)[:_BARS]
    blocks = [block for block in found.blocks if block in longest]
    times = [block.time_us / 1000 for block in blocks]
    names = [block.name for block in blocks]
    if rest := [block for block in found.blocks if block not in longest]:
        names.append(f"{len(rest)} others")
        times.append(sum(block.time_us for block in rest) / 1000)
    at_peak = [(block.peak_share or 0.0) * block.time_us / 1000 for block in blocks]
    places = range(len(names))
    axes.barh(places, times, color=look.grid, label="measured", zorder=2)
    axes.barh(places[: len(at_peak)], at_peak, color=look.main, height=0.5, label="arithmetic at the peak", zorder=3)
    axes.set_yticks(places, names, fontsize=6, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="ms")
    axes.legend(fontsize=7, loc="best")
