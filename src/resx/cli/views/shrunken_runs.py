"""Runs with fewer blocks, beside the run that they come from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.shrink.search import ShrunkenNetwork
    from resx.analysis.shrink.shrunken_run import ShrinkRecord


def show_runs(console: Console, whole: ShrunkenNetwork, records: list[tuple[Path, ShrinkRecord]]) -> None:
    """Print accuracy and latency of each, the whole one first."""

    def row(folder: str, member: ShrunkenNetwork, accuracy: float) -> list[str]:
        latency = "" if member.latency_ms is None else f"{member.latency_ms:.3g}"
        dropped = ", ".join(map(str, member.dropped_blocks))
        return [folder, str(member.num_blocks), f"{accuracy:.2%}", latency, dropped]

    rows = [row(records[0][1].source, whole, whole.accuracy)]
    rows += [row(str(folder), record.member, record.accuracy) for folder, record in records]
    console.print(table("", ["run", "blocks", "held-out accuracy", "ms", "without blocks"], rows))
    console.print(f"next: resx export {shlex.quote(str(records[-1][0]))}", markup=False, soft_wrap=True)
