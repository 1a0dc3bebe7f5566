"""Between which rates the highest one lies that holds an objective, and which to try next: decided by trials alone.

Trials halve the interval between a rate that held and one that did not, in ratios. A trial whose requests left late
says nothing of the server: lower rates are tried, and that rate once more when one of them holds. If it is late again,
it is a rate that did not hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

STEP = 1.5
"""From a rate to the next where nothing says how far to go."""
_LATE_STEP = 4.0
"""From a rate that the client could not send down to the next: its limit may be far below a closed loop's capacity."""
_MOST_TRIALS = 12
"""That tell of the server."""
_MOST_LATE = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialVerdict:
    """What a trial of a rate showed."""

    held: bool = False
    late: bool = False
    """Its requests left late."""
    hopeless: bool = False
    """The objective was missed where requests hardly wait for each other: lower rates will miss it, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateBracket:
    """How far a search has come."""

    rate_per_s: float
    """To be tried, unless the search has ended."""
    high: float
    """No rate from here on holds."""
    down: float = STEP
    """From a rate that did not hold to the next, while none has held."""
    low: float = 0.0
    """The highest rate that held; 0: none did."""
    doubtful: float = math.inf
    """The lowest rate whose requests left late, and that was not asked again."""
    asked_again: frozenset[float] = frozenset()
    num_told: int = 0
    num_late: int = 0
    has_ended: bool = False

    @property
    def is_again(self) -> bool:
        """Say whether the rate was tried before."""
        return self.rate_per_s in self.asked_again

    def after(self, verdict: TrialVerdict, closeness: float) -> RateBracket:
        """Return the search after a trial of `rate_per_s`; it ends where `high` is within this ratio of `low`."""
        rate, low, high, doubtful = self.rate_per_s, self.low, self.high, self.doubtful
        if verdict.held:
            low = rate
        elif verdict.late and not self.is_again:
            doubtful = min(doubtful, rate)
        else:
            high = rate
        num_late, num_told = self.num_late + verdict.late, self.num_told + (not verdict.late)
        spent = num_told >= _MOST_TRIALS or num_late >= _MOST_LATE
        now = replace(
            self, low=low, high=high, doubtful=doubtful, num_late=num_late, num_told=num_told, has_ended=spent
        )
        if low and low < doubtful < high:
            again = self.asked_again | {doubtful}
            return replace(now, rate_per_s=doubtful, doubtful=math.inf, asked_again=again)
        ceiling = min(high, doubtful)
        if (low and ceiling / low <= closeness) or (not low and verdict.hopeless and not verdict.late):
            return replace(now, has_ended=True)
        if low:
            return replace(now, rate_per_s=min(math.sqrt(low * ceiling), STEP * low))
        return replace(now, rate_per_s=ceiling / (_LATE_STEP if verdict.late else self.down))
