"""One of MLPerf's scenarios, as LoadGen is told to run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Scenario: TypeAlias = Literal["SingleStream", "MultiStream", "Server", "Offline"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioPlan:
    """A scenario with its times and rates."""

    scenario: Scenario
    """LoadGen's name."""
    duration_s: float
    """The least that LoadGen is told."""
    rate_per_s: float
    """Server: of the Poisson arrivals. Offline: samples a second to expect; 0: what the warm-up achieves."""
    latency_bound_ms: float
    """Server: of the 99th percentile."""
    connections: int
    """Requests in flight at most; those that are due beyond them wait, and their latency counts."""
    log_folder: Path
    """For LoadGen's logs; made if it is not there, and logs of an earlier run are overwritten."""
    seed: int
    """Of LoadGen's choices and of the arrivals."""
    warmup_s: float = 1.0
    """Before the test, not measured."""
    timeout_s: float = 60.0
    """After which a request counts as failed."""

    @property
    def target_rate_per_s(self) -> float:
        """Rate of the arrivals, which the Server scenario alone has; 0 elsewhere."""
        return self.rate_per_s if self.scenario == "Server" else 0.0
