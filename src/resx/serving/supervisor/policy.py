"""How a server is watched, brought back and ended."""

from __future__ import annotations

from dataclasses import dataclass

from resx.errors import UsageError

_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the supervisor's user may set."""

    exit_timeout_s: int = 10
    """Accepted requests have this long to be answered when the server is told to end."""
    max_tries: int = 5
    """Recoveries that may fail in a row; one that does not hold for a second counts as failed."""
    canary_interval_s: float = 1.0
    """Least time between two canaries of a version."""
    canary_timeout_s: float = 10.0
    """A model that finishes nothing for this long, with a canary waiting, hangs."""
    probation_s: float = 600.0
    """A model that was reloaded for a wrong answer and gives another within this time is set aside."""

    def __post_init__(self) -> None:
        for name, least in (
            ("exit_timeout_s", 1),
            ("max_tries", 1),
            ("canary_interval_s", 0),
            ("canary_timeout_s", 1),
            ("probation_s", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: give {least} or more")

    def wait_s(self, failed_in_a_row: int) -> float:
        """Return how long to wait before the next try: nothing at first, then 0.5 s, 1 s and so on to 30 s."""
        return min(0.5 * 2.0 ** (failed_in_a_row - 1), _LONGEST_WAIT_S) if failed_in_a_row else 0.0

    def holds(self, seconds: float, failed_in_a_row: int) -> bool:
        """Say whether a recovery that lasted so long counts as one that held."""
        return seconds >= max(1.0, 2 * self.wait_s(failed_in_a_row))
