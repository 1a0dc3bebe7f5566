"""The warning beside answers of a network that nobody trained."""

from __future__ import annotations

from resx.cli.output import Output


def warn(out: Output, name: str, *, is_random: bool) -> None:
    """Say on stderr that its answers mean nothing, if so."""
    if is_random:
        out.note(
            f"warning: {name} has random weights: its answers mean nothing; train it with `resx train`, or export it "
            "with trained --weights"
        )
