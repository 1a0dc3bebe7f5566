"""What every command prints in place of a result when it fails, and beside one that failed a check."""

from __future__ import annotations

from typing_extensions import TypedDict

from resx.cli.results.described import described


@described
class Error(TypedDict):
    """Why a command failed."""

    code: int
    """The exit code."""
    message: str
    """The value and the rule."""
    remedy: str | None
    """What to do, if that is known."""
