"""A lesion study for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.flowing_text import print_text
from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.lesion.study import ErrorSpread, LesionStudy


def show_study(console: Console, found: LesionStudy, written: Sequence[Path]) -> None:
    """Print each block's error, and what deletions and swaps of several cost."""
    rows = [
        [
            str(one.block),
            one.name,
            f"{100 * one.error:.2f}",
            f"{100 * (one.error - found.error):+.2f}",
            "changes shape" if one.changes_shape else "",
        ]
        for one in found.blocks
    ]
    print_text(
        console,
        f"{found.plan.model}: error {found.error:.2%} on {found.plan.num_images} held-out images; without one block:",
    )
    console.print(table("", ["block", "name", "error %", "points", "note"], rows, left=2))
    _print_spreads(console, f"without k random blocks, {found.plan.draws} draws each:", found.deleted)
    if found.swapped:
        _print_spreads(console, "after k exchanges of two random blocks of one shape:", found.swapped)
    cost = found.cost
    lines = [
        f"median increase from deleting one block: {100 * found.median_single_increase:.2f} points; "
        f"error by chance: {found.chance_error:.2%}",
        f"{cost.num_variants} networks in {cost.seconds:.1f} s; shared computation saved {1 - cost.ratio:.0%} of the "
        "block evaluations",
    ]
    for line in lines:
        print_text(console, line)
    print_lines(console, [f"wrote {path}" for path in written])


def _print_spreads(console: Console, title: str, spreads: tuple[ErrorSpread, ...]) -> None:
    rows = [
        [str(one.k), *(f"{100 * share:.2f}" for share in (one.mean, one.std, one.lowest, one.highest))]
        for one in spreads
    ]
    print_text(console, title)
    console.print(table("", ["k", "mean error %", "std", "lowest %", "highest %"], rows, left=0))
