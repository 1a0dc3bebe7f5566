"""Did the load or its server use a CPU quota up while it was measured? Then the figure is the quota's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from resx.machine import Throttling, throttled_between, throttling
from resx.serving.client.address import Address
from resx.serving.running.server_state import server_at

_Counts: TypeAlias = dict[Path, Throttling]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """What the control groups had counted when a window opened, of the client and of a server on this machine."""

    server_pid: int | None
    before: dict[str, _Counts]

    def used_up(self) -> tuple[str, ...]:
        """Say in a line each which groups were throttled since."""
        found: dict[Path, tuple[list[str], Throttling]] = {}
        for who, now in _read(self.server_pid).items():
            if worst := throttled_between(self.before.get(who, {}), now):
                found.setdefault(worst[0], ([], worst[1]))[0].append(who)
        return tuple(
            f"throttled: {' and '.join(who)} exhausted the CPU quota in {counts.throttled} of {counts.periods} periods "
            f"(stopped for {counts.seconds:.2f} s); raise the quota, or compare results with the same quota only"
            for who, counts in found.values()
        )


def quotas_of(address: Address) -> Quotas:
    """Read the counters of this process and, where it runs here, of the server at `address`."""
    state = server_at(address.host_port)
    pid = state.server_pid if state else None
    return Quotas(server_pid=pid, before=_read(pid))


def _read(server_pid: int | None) -> dict[str, _Counts]:
    server = {"server": throttling(server_pid)} if server_pid else {}
    return {"client": throttling()} | server
