"""Which node of the file each node that a runtime ran belongs to.

By name first: the runtime's name, its list of originals, the tensors it gives. What computes belongs to the layer
whose weights it has, so from a name further down (onnxruntime calls a fused node by its last tensor) the file's graph
is followed upwards to that layer. What a runtime inserted takes the place of a node that uses it, else of one that it
takes from. What is left belongs to nothing, and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resx.runtimes.profiling.counters import RuntimeNode
from resx.runtimes.profiling.source_graph import SourceGraph

_FUSED_DEPTH = 6
"""Nodes that a runtime fuses behind one layer at most: sums, activations and quantisation."""


def attribute(nodes: Sequence[RuntimeNode], source: SourceGraph) -> list[int | None]:
    """Return, for each node that ran, the place of the file's node that it belongs to; None: of none."""
    by_name = source.by_name()
    places = {node.name: place for node in nodes if (place := _by_name(node, source, by_name)) is not None}
    claimed = {place for node in nodes if node.computes and (place := places.get(node.name)) is not None}
    for node in nodes:
        place = places.get(node.name)
        if node.computes and place is not None and not source.nodes[place].is_weighted:
            places[node.name] = layer = _layer_above(place, source, by_name, claimed)
            claimed.add(layer)
    for neighbours in ({node.name: node.users for node in nodes}, {node.name: node.givers for node in nodes}):
        _take_from_neighbours(places, neighbours)
    return [places.get(node.name) for node in nodes]


def fused_away(nodes: Sequence[RuntimeNode], places: Sequence[int | None], source: SourceGraph) -> dict[int, list[int]]:
    """Return layers with weights that no node has for itself, by the place of the one whose node computes them."""
    by_name, taken = source.by_name(), set(places)
    found: dict[int, list[int]] = {}
    for node, place in zip(nodes, places, strict=True):
        for name in node.source_names:
            layer = _known(name, by_name)
            if place is not None and layer is not None and layer not in taken and source.nodes[layer].is_weighted:
                found.setdefault(place, []).append(layer)
                taken.add(layer)
    return found


def _by_name(node: RuntimeNode, source: SourceGraph, by_name: dict[str, int]) -> int | None:
    found = [place for name in node.source_names if (place := _known(name, by_name)) is not None]
    weighted = [place for place in found if source.nodes[place].is_weighted]
    return next(iter(weighted if node.computes and weighted else found), None)


def _known(name: str, by_name: dict[str, int]) -> int | None:
    """Return the node of that name, or of the longest part of it that a slash ends."""
    while name:
        if name in by_name:
            return by_name[name]
        name = name.rpartition("/")[0]
    return None


def _layer_above(place: int, source: SourceGraph, by_name: dict[str, int], claimed: set[int]) -> int:
    """Return the nearest layer with weights upwards of a node that no other has; the node itself if there is none."""
    level = [place]
    for _ in range(_FUSED_DEPTH):
        level = [by_name[name] for above in level for name in source.nodes[above].inputs if name in by_name]
        for above in level:
            if source.nodes[above].is_weighted and above not in claimed:
                return above
    return place


def _take_from_neighbours(places: dict[str, int], neighbours: Mapping[str, Sequence[str]]) -> None:
    """Give nodes without a place that of a neighbour, until no more is found."""
    while True:
        found = {
            name: places[others[0]]
            for name, near in neighbours.items()
            if name not in places and (others := [other for other in near if other in places])
        }
        if not found:
            return
        places |= found
