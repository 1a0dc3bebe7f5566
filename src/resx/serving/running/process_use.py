"""What a server and the processes that it started take of this machine: processor time and memory, from /proc.

Memory is told twice. RSS counts a page that several processes share, as the stubs share onnxruntime's library, once for
each; PSS gives each its part, so that the sum over the processes is what they take together (proc(5), smaps_rollup).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from resx.serving.running.processes import children

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessUse:
    """Of a process and all that descend from it, summed."""

    num_processes: int
    rss_bytes: int
    pss_bytes: int | None
    """None: the kernel does not say."""


def family(pid: int) -> list[int]:
    """Return the process and all that descend from it; nothing if there is no such process."""
    if not Path(f"/proc/{pid}").exists():
        return []
    found, waiting = [pid], [pid]
    while waiting:
        born = children(waiting.pop())
        found += born
        waiting += born
    return found


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, its ended threads included; 0 if there is no such process."""
    # A process's CPU clock, as clock_getcpuclockid(3) makes its number on Linux.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def memory_of(pids: list[int]) -> ProcessUse | None:
    """Return the memory of these processes together; None if none of them lives, or may be read."""
    pages = [count for pid in pids if (count := _resident_pages(pid)) is not None]
    if not pages:
        return None
    shares = [_pss_bytes(pid) for pid in pids]
    known = [share for share in shares if share is not None]
    return ProcessUse(
        num_processes=len(pages),
        rss_bytes=sum(pages) * os.sysconf("SC_PAGE_SIZE"),
        pss_bytes=sum(known) if len(known) == len(pages) else None,
    )


def _resident_pages(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None


def _pss_bytes(pid: int) -> int | None:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
