"""Processes that are named in a file: told from another that has their id by now, before a signal goes out.

An id is given again once its process has ended. Id and start time together name one process for as long as the machine
runs (proc(5), field 22 of /proc/PID/stat); owner and executable must be right too. It is read here and not by psutil,
which gives the start in seconds since the epoch, from a boot time that moves with the clock; and `resx stop`, `status`
and `deploy` are commands of the bare client, which has no psutil.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resx.errors import ServerError

MAX_PID = 2**22
"""The kernel's own bound (proc_sys_kernel(5), pid_max)."""
_PARENT_FIELD, _START_FIELD = 1, 19
"""Of what follows the command in /proc/PID/stat: fields 4 and 22."""
_INDEX = Path("/proc/thread-self/children")
_MOST_GENERATIONS = 64
_DELETED = " (deleted)"
"""What the kernel adds to an executable that was replaced, as an update of Python does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """What tells a process from every other."""

    pid: int
    start_ticks: int
    """Clock ticks after boot; 0: not known."""
    executable: str


def this_process() -> Process:
    """Return what tells this process."""
    return Process(pid=os.getpid(), start_ticks=start_ticks(os.getpid()), executable=_executable(os.getpid()))


def start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks after boot; 0 if there is none."""
    fields = stat_fields(pid)
    return int(fields[_START_FIELD]) if len(fields) > _START_FIELD else 0


def stat_fields(pid: int) -> list[str]:
    """Return state, parent and so on of /proc/PID/stat; nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def descends_from(pid: int, ancestor: int) -> bool:
    """Say whether a process is another one or was started by it, directly or not."""
    for _ in range(_MOST_GENERATIONS):
        if pid == ancestor:
            return True
        fields = stat_fields(pid)
        pid = int(fields[_PARENT_FIELD]) if len(fields) > _PARENT_FIELD else 0
        if pid <= 0:
            return False
    return False


def is_own(pid: int) -> bool:
    """Say whether a process belongs to this user."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.geteuid()
    except OSError:
        return False


def lives(process: Process) -> bool:
    """Say whether the process has not ended; a zombie has."""
    return start_ticks(process.pid) == process.start_ticks and stat_fields(process.pid)[:1] != ["Z"]


def terminate(process: Process) -> bool:
    """Send SIGTERM to the process; say whether it still lived.

    Raises:
        ServerError: its id is another process's, of another user or another program.
    """
    with contextlib.ExitStack() as held:
        descriptor = _descriptor(process.pid)
        if descriptor is not None:
            held.callback(os.close, descriptor)  # from here on the id cannot change what the signal reaches
        if not start_ticks(process.pid):
            return False
        _require(process)
        with contextlib.suppress(ProcessLookupError):
            if descriptor is None:
                os.kill(process.pid, signal.SIGTERM)
            else:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            return True
    return False


def sleep_until_end(pids: Iterable[int], timeout_s: float) -> bool:
    """Sleep until one of these processes ends, or the time is over; those that are not there count as asleep.

    `Popen.wait` looks again and again instead: eight times in a tenth of a second.

    Returns:
        False, at once, where the kernel has no descriptors of processes.
    """
    ends = select.poll()
    with contextlib.ExitStack() as held:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            except OSError:
                return False
            held.callback(os.close, descriptor)
            ends.register(descriptor, select.POLLIN)
        ends.poll(timeout_s * 1000)
    return True


def children(pid: int) -> list[int]:
    """Return the ids of a process's children, zombies too; nothing if there is no such process.

    The kernel's index of them, where it is built with one, takes as long as the process has threads, and not as long as
    the machine has processes. It may miss one while another ends.
    """
    if not _INDEX.exists():
        return [child for child in all_processes() if stat_fields(child)[_PARENT_FIELD:][:1] == [str(pid)]]
    return [int(child) for task in _numbers(f"/proc/{pid}/task") for child in _index_of(pid, task)]


def all_processes() -> list[int]:
    """Return the ids of all processes."""
    return _numbers("/proc")


def ending_of(code: int) -> str:
    """Return in words how a process with this return code ended."""
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _require(process: Process) -> None:
    pid = process.pid
    same = start_ticks(pid) == process.start_ticks and _executable(pid) == process.executable
    if not (same and is_own(pid)):
        raise ServerError(
            f"process {pid}: is not the server that was started here, so it was not stopped; if it belongs to an "
            f"earlier resx, stop it with: kill {pid}"
        )


def _executable(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(_DELETED)
    except OSError:
        return ""


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]  # noqa: PTH208 - a third of the time
    except OSError:
        return []


def _index_of(pid: int, thread: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:  # noqa: PTH123 - for every thread
            return file.read().split()
    except OSError:  # it ended in the meantime
        return []


def _descriptor(pid: int) -> int | None:
    """Return a descriptor of the process; None where the kernel has none to give."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
