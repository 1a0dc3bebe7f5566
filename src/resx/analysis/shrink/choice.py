"""Which of the sizes that a search goes through is wanted: by number, by accuracy or by measured latency."""

from __future__ import annotations

from collections.abc import Iterable

from resx.analysis.shrink.search import BlockLatency, Measure, ShrunkenNetwork, Sized, best_within, front
from resx.errors import ObjectiveMissed, UsageError

_PATIENCE = 5
"""Sizes in a row below the bar before the search for an accuracy ends: accuracy does not fall steadily."""


def after_drops(sizes: Iterable[Sized], drop: int) -> Sized:
    """Return the network after `drop` blocks went."""
    for number, sized in enumerate(sizes, start=1):
        if number == drop:
            return sized
    raise AssertionError("require_removable was not asked")


def within_accuracy(sizes: Iterable[Sized], whole: float, max_drop: float) -> Sized:
    """Return the smallest network that loses at most `max_drop`, a share, of the accuracy `whole`.

    Raises:
        ObjectiveMissed: none does.
    """
    found: list[Sized] = []
    misses = 0
    for sized in sizes:
        found.append(sized)
        misses = 0 if sized.member.accuracy >= whole - max_drop - 1e-9 else misses + 1
        if misses == _PATIENCE:
            break
    return best_within(found, whole, max_drop)


def require_reachable(latency: BlockLatency, removable: Iterable[int], target_ms: float) -> None:
    """Check that a latency can be had by dropping blocks, and that something has to go for it.

    Raises:
        UsageError: the network is fast enough as it is.
        ObjectiveMissed: it is too slow without all blocks that can go.
    """
    if latency.total_ms <= target_ms:
        raise UsageError(
            f"--latency {target_ms:g}: the run takes {latency.total_ms:.3g} ms already; choose a lower target"
        )
    least_ms = latency.without(list(removable))
    if least_ms > target_ms:
        raise ObjectiveMissed(
            f"--latency {target_ms:g}: with every removable block removed it would still take {least_ms:.3g} ms (now "
            f"{latency.total_ms:.3g}); raise the target, or start from a smaller network"
        )


def within_latency(sizes: Iterable[Sized], latency: BlockLatency, target_ms: float, measure: Measure) -> Sized:
    """Return the largest network whose own exported graph was measured to take at most `target_ms`.

    `latency` is the whole network's: graphs are exported and measured only where it says that they may suffice.

    Raises:
        ObjectiveMissed: none is fast enough; the message says the fastest.
    """
    fastest = latency.total_ms
    for sized in sizes:
        if latency.without(sized.member.dropped_blocks) > target_ms:
            continue
        timed = with_latency(sized, measure)
        assert timed.member.latency_ms is not None
        fastest = min(fastest, timed.member.latency_ms)
        if timed.member.latency_ms <= target_ms:
            return timed
    raise ObjectiveMissed(f"--latency {target_ms:g}: not reached; the fastest model measured takes {fastest:.3g} ms")


def on_front(
    whole: ShrunkenNetwork, sizes: Iterable[Sized], latency: BlockLatency, measure: Measure
) -> tuple[list[Sized], list[ShrunkenNetwork]]:
    """Return the smaller networks that no other beats, each with its measured latency, and all sizes, `whole` first.

    Of the others the latency is predicted from `latency`, that of the whole network.
    """
    smaller = list(sizes)
    known = [whole, *(one.member for one in smaller)]
    best = front(known)
    chosen = [with_latency(one, measure) for one in smaller if one.member in best]
    by_size = {one.member.num_blocks: one.member for one in chosen}
    table = [whole]
    for one in smaller:
        predicted_ms = latency.without(set(one.member.dropped_blocks) - set(whole.dropped_blocks))
        predicted = one.member.model_copy(update={"latency_ms": predicted_ms, "predicted": True})
        table.append(by_size.get(one.member.num_blocks, predicted))
    return chosen, table


def with_latency(sized: Sized, measure: Measure) -> Sized:
    """Return the network with the latency of its own exported graph."""
    latency_ms = measure(sized.model, sized.spec).total_ms
    member = sized.member.model_copy(update={"latency_ms": latency_ms, "predicted": False})
    return Sized(member=member, model=sized.model, spec=sized.spec)
