"""Counters joined to the file's graph: layers and blocks, with their shares of the peak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resx.runtimes.profiling.attribution import attribute, fused_away
from resx.runtimes.profiling.counters import ComputedIn, Counts
from resx.runtimes.profiling.profile import Block, Layer, Work
from resx.runtimes.profiling.source_graph import SourceGraph

Peaks = Mapping[ComputedIn, float]
"""FLOPs in a microsecond, by what is computed in; one that is missing was not measured."""


def layers_of(counts: Counts, source: SourceGraph, peaks: Peaks) -> tuple[Layer, ...]:
    """Return the layers in the file's order; what could not be attributed comes last and has no name."""
    times = counts.quieter_half()
    of_place: dict[int, list[int]] = {}
    places = attribute(counts.nodes, source)
    also = fused_away(counts.nodes, places, source)
    for number, place in enumerate(places):
        of_place.setdefault(len(source.nodes) if place is None else place, []).append(number)
    layers = []
    for place, numbers in sorted(of_place.items()):
        nodes = [counts.nodes[number] for number in numbers]
        of = source.nodes[place] if place < len(source.nodes) else None
        computed_in = next((node for node in nodes if node.computes), nodes[0]).computed_in
        time_us, parts = float(times[numbers].sum()), [source.nodes[part] for part in also.get(place, ())]
        macs = sum(node.macs or 0 for node in (of, *parts) if node)
        layers.append(
            Layer(
                name=" + ".join(node.name for node in (of, *parts) if node),
                operator=of.operator if of else "",
                block=source.blocks[place] if of else "",
                kernels=tuple(node.kernel for node in nodes),
                computed_in=computed_in,
                time_us=time_us,
                macs=macs,
                bytes_read=sum(node.bytes_read for node in nodes),
                bytes_weights=sum(node.bytes_weights for node in nodes),
                bytes_written=sum(node.bytes_written for node in nodes),
                peak_share=_share(2 * macs / peaks[computed_in], time_us) if computed_in in peaks else None,
            )
        )
    return tuple(layers)


def blocks_of(layers: Sequence[Layer]) -> tuple[Block, ...]:
    """Return the blocks in the order in which their first layers come; what has none is left out."""
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.block:
            members.setdefault(layer.block, []).append(layer)
    return tuple(Block(name=name, num_layers=len(inside), **dict(sum_up(inside))) for name, inside in members.items())


def sum_up(layers: Sequence[Work], time_us: float | None = None) -> Work:
    """Return what some layers do together; `time_us` is taken in place of the sum of theirs."""
    taken_us = sum(layer.time_us for layer in layers) if time_us is None else time_us
    at_peak_us = sum(layer.time_us * layer.peak_share for layer in layers if layer.peak_share)
    return Work(
        time_us=taken_us,
        macs=sum(layer.macs for layer in layers),
        bytes_read=sum(layer.bytes_read for layer in layers),
        bytes_weights=sum(layer.bytes_weights for layer in layers),
        bytes_written=sum(layer.bytes_written for layer in layers),
        peak_share=_share(at_peak_us, taken_us),
    )


def _share(at_peak_us: float, time_us: float) -> float | None:
    """Return the share of the peak; layers of several precisions are each held to their own."""
    return at_peak_us / time_us if at_peak_us and time_us else None
