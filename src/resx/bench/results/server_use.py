"""What the server took of its machine while a window was open: processor time, and memory at the window's end."""

from __future__ import annotations

from dataclasses import dataclass, field

from resx.serving.client.address import Address
from resx.serving.client.loopback import is_loopback, split_host
from resx.serving.running.process_use import cpu_s, family, memory_of
from resx.serving.running.server_state import server_at
from resx.values import FrozenModel


class ServerUse(FrozenModel):
    """Use of the server and its Python processes, with all loaded models."""

    num_processes: int
    rss_bytes: int
    """What they share counts for each of them."""
    pss_bytes: int | None
    """What they share counts once; None: the kernel does not say."""
    cpu_s: float
    """Processor time in the window."""
    cpu_ms_per_request: float | None
    """None: nothing was answered."""

    @property
    def memory_bytes(self) -> int:
        """What they take together, as well as the kernel says."""
        return self.rss_bytes if self.pss_bytes is None else self.pss_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class UseBefore:
    """What the server had taken when a window opened."""

    server_pid: int | None = None
    missing: str = "the load did not start"
    """Why nothing can be known; empty: it can."""
    cpu_s: dict[int, float] = field(default_factory=dict)
    """By process."""

    def cpu_since(self) -> float:
        """Return the processor time since; a process that began in the meantime counts from its start."""
        if self.server_pid is None:
            return 0.0
        return sum(max(0.0, cpu_s(pid) - self.cpu_s.get(pid, 0.0)) for pid in family(self.server_pid))


def use_before(address: Address) -> UseBefore:
    """Read the processor time of the server at this address, where it is an embedded one of this user's."""
    state = server_at(address.host_port)
    if state is None:
        here = is_loopback(split_host(address.host_port)[0])
        why = "is no embedded server of this user" if here else "is not on this machine"
        return UseBefore(server_pid=None, missing=f"the server at {address.host_port} {why}")
    pids = family(state.server_pid)
    return UseBefore(server_pid=state.server_pid, missing="", cpu_s={pid: cpu_s(pid) for pid in pids})


def use_after(before: UseBefore, used_cpu_s: float, answered: int) -> ServerUse | None:
    """Return what the server took; None where that is not known, or the server is gone.

    Args:
        before: as it was when the window opened.
        used_cpu_s: `before.cpu_since()` at the moment when it closed; memory may be read later, which takes longer.
        answered: requests in the window.
    """
    memory = memory_of(family(before.server_pid)) if before.server_pid is not None else None
    if memory is None:
        return None
    return ServerUse(
        num_processes=memory.num_processes,
        rss_bytes=memory.rss_bytes,
        pss_bytes=memory.pss_bytes,
        cpu_s=used_cpu_s,
        cpu_ms_per_request=used_cpu_s / answered * 1e3 if answered else None,
    )
