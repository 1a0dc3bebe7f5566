"""A network's paths for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.paths.study import PathGradients, PathLengths


def show_paths(
    console: Console,
    payload: dict[str, Any],
    lengths: PathLengths,
    gradients: PathGradients | None,
    written: Sequence[Path],
) -> None:
    """Print the share of paths of each length, and the gradient that they carry."""
    columns, rows = ["length", "paths, %"], []
    for length, share in enumerate(lengths.shares):
        row = [str(length), f"{100 * share:.3g}"]
        if gradients is not None:
            row += [f"{gradients.lengths[length].mean:.3g}", f"{100 * gradients.shares[length]:.3g}"]
        rows.append(row)
    if gradients is not None:
        columns += ["gradient per path", "paths x gradient, %"]
    console.print(table("", columns, rows, left=0))
    lines = [
        f"{payload['model']}: {lengths.num_blocks} blocks, mean length {lengths.mean:.1f} (standard deviation "
        f"{lengths.std:.2f}); {lengths.span.share:.1%} of the paths have {lengths.span.low} to {lengths.span.high} "
        "blocks"
    ]
    if between := payload.get("between"):
        lines.append(f"{between['share']:.2%} of the paths have {between['low']} to {between['high']} blocks")
    if gradients is None:
        lines.append("path lengths only: gradients need a trained run")
    else:
        lines.append(
            f"paths of {gradients.span.low} to {gradients.span.high} blocks carry {gradients.span.share:.1%} of the "
            f"gradient; gradient-weighted mean length {gradients.mean_length:.1f}"
        )
    print_lines(console, [*lines, *(f"wrote {path}" for path in written)])
