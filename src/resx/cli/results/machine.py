"""What `doctor` prints."""

from __future__ import annotations

from typing_extensions import TypedDict

from resx.cli.results.described import described


@described
class MachineCheck(TypedDict):
    """One thing that resx uses."""

    what: str
    found: bool
    detail: str
    remedy: str
    """How to install what is missing; empty if nothing is."""
    needed_for: str
    state: str
    """found, missing, wrong or on first use."""


@described
class Machine(TypedDict):
    """`resx doctor --json`."""

    checks: list[MachineCheck]
