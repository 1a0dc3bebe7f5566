"""Runs with fewer blocks, beside the run that they come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.command_lines import command_line
from resx.cli.marks import show_done, show_next
from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.shrink.search import ShrunkenNetwork
    from resx.analysis.shrink.shrunken_run import ShrinkRecord


def show_runs(
    console: Console, whole: ShrunkenNetwork, records: list[tuple[Path, ShrinkRecord]], plot: Path | None
) -> None:
    """Print accuracy and latency of each, the whole one first, and the figure's file."""

    def row(folder: str, member: ShrunkenNetwork, accuracy: float) -> list[str]:
        latency = "-" if member.latency_ms is None else f"{member.latency_ms:.3g}"
        dropped = ", ".join(map(str, member.dropped_blocks))
        return [folder, str(member.num_blocks), f"{100 * accuracy:.2f}", latency, dropped]

    rows = [row(records[0][1].source, whole, whole.accuracy)]
    rows += [row(str(folder), record.member, record.accuracy) for folder, record in records]
    console.print(table("", ["run", "blocks", "accuracy %", "ms", "without blocks"], rows, least=("without blocks",)))
    last, record = records[-1]
    lost = 100 * (whole.accuracy - record.accuracy)
    show_done(
        console,
        f"Wrote {last}" if len(records) == 1 else f"Wrote {len(records)} runs",
        f"{record.member.num_blocks} of {whole.num_blocks} blocks",
        f"accuracy {record.accuracy:.2%} on held-out images ({-lost:+.2f} points)",
    )
    if plot is not None:
        print_lines(console, [f"wrote {plot}"])
    show_next(console, command_line("export", last))
