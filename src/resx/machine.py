"""The machine that something was measured on, and how much of it this process may use.

Cores are limited in two ways: an affinity mask says which, a control group's quota says how much of their time. A
container with `--cpus 1` sees every core of its host; two threads then use its time up in half of each period, and
stand still for the other half. So threads follow both: `usable_cores`.

    cpu.max                               control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst)
    cpu.cfs_quota_us, cpu.cfs_period_us   version 1 (Documentation/scheduler/sched-bwc.rst)

Groups are nested, and each of them limits all that is in it: the tightest counts.
"""

from __future__ import annotations

import math
import os
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_MOST_FILES = 65_536
"""Some programs look at each that they may have."""
_INSTRUCTION_SETS = {
    "amx_tile": "amx", "avx512_bf16": "avx512_bf16", "avx512_vnni": "avx512_vnni", "avx512f": "avx512",
    "avx_vnni": "avx_vnni", "avx2": "avx2", "sve": "sve", "asimd": "neon",
}  # fmt: skip
"""By the kernel's flag; the first one that the processor has decides which kernels a runtime takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Throttling:
    """How often a control group used its quota up."""

    periods: int
    throttled: int
    """Periods in which what is in the group had to stand still."""
    seconds: float
    """For how long, all cores together."""

    def since(self, before: Throttling) -> Throttling:
        """Return what came after `before`."""
        return Throttling(
            periods=self.periods - before.periods,
            throttled=self.throttled - before.throttled,
            seconds=self.seconds - before.seconds,
        )


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def instruction_set(root: Path = _ROOT) -> str:
    """Return the widest vector instructions of the processor, such as `avx512_bf16`; its kind where none is known.

    Args:
        root: where `proc` is found.
    """
    try:
        lines = (root / "proc" / "cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = set(next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split())
    return next((name for flag, name in _INSTRUCTION_SETS.items() if flag in flags), platform.machine())


def usable_cores(root: Path = _ROOT) -> int:
    """Return how many threads this process can run at the same time: its cores, or its quota rounded up.

    Args:
        root: where `proc` and the control groups are found.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the cores' worth of time that this process may use; None without a limit."""
    quotas = [quota for group in _groups("self", root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def quota_note(root: Path = _ROOT) -> str:
    """Return in words that the quota is below the cores; empty if it is not."""
    quota, affinity = cpu_quota(root), len(os.sched_getaffinity(0))
    if quota is None or quota >= affinity:
        return ""
    threads = usable_cores(root)
    return (
        f"CPU quota of {quota:g} core{'' if quota == 1 else 's'} (control group), {affinity} cores visible: "
        f"{threads} thread{'' if threads == 1 else 's'} by default"
    )


def limit_libraries() -> None:
    """Let torch, and other libraries that count cores themselves, start as many threads as the quota allows.

    They read the variable when they are loaded; what the user has set stays.
    """
    if (cores := usable_cores()) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def allow_open_files() -> int:
    """Allow this process, and those that it starts, as many open files as it may have; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, _MOST_FILES)


def lacks_open_files(number: int, what: str) -> str:
    """Return why so many files and connections cannot be open, with the remedy; empty if they can.

    Without them a server accepts nobody, and says nothing.
    """
    if (allowed := allow_open_files()) >= number:
        return ""
    return (
        f"{allowed} open files are allowed here and {what} needs {number}; raise the hard limit (ulimit -Hn {number}, "
        "LimitNOFILE= of systemd, --ulimit nofile= of docker)"
    )


def throttling(pid: int | None = None, root: Path = _ROOT) -> dict[Path, Throttling]:
    """Return what a process's control groups have counted, by group; None: of this process."""
    found = {}
    for group in _groups("self" if pid is None else str(pid), root):
        if _quota(group) is not None and (counts := _counts(group)):
            found[group] = counts
    return found


def throttled_between(before: dict[Path, Throttling], after: dict[Path, Throttling]) -> tuple[Path, Throttling] | None:
    """Return the group that stood still most between two readings, and how often; None if none did."""
    spent = {group: counts.since(before[group]) for group, counts in after.items() if group in before}
    throttled = {group: counts for group, counts in spent.items() if counts.throttled > 0}
    return max(throttled.items(), key=lambda entry: entry[1].throttled, default=None)


def _groups(process: str, root: Path) -> Iterator[Path]:
    """Yield the folders of a process's groups that may limit its time, from its own up to those that contain it."""
    paths = dict(_paths(process, root))
    for kind, mount_root, mount_point in _mounts(root):
        if (path := paths.get(kind)) is None:
            continue
        below = path if mount_root == "/" else path.removeprefix(mount_root) if _is_below(path, mount_root) else ""
        top = root / mount_point.lstrip("/")
        folder = top / below.strip("/")
        if ".." in below.split("/") or not folder.is_dir():  # a group outside of what is mounted here
            folder = top
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def _paths(process: str, root: Path) -> Iterator[tuple[str, str]]:
    """Yield the file system of the groups and the path in it, from /proc/PID/cgroup (cgroups(7))."""
    for line in _lines(root / "proc" / process / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "cpu" in controllers.split(","):
            yield "cgroup", path


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the file systems of groups: kind, the part that is mounted, and where (proc(5), mountinfo)."""
    for line in _lines(root / "proc" / "self" / "mountinfo"):
        fields, _, about = line.partition(" - ")
        kind, _, options = about.partition(" ")
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(" ")[-1].split(",")):
            _, _, _, mounted, point, *_ = fields.split(" ")
            yield kind, mounted.replace("\\040", " "), point.replace("\\040", " ")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _quota(group: Path) -> float | None:
    try:
        if words := " ".join(_lines(group / "cpu.max")).split():
            return None if words[0] == "max" else int(words[0]) / int(words[1])
        quota_us, period_us = (int(" ".join(_lines(group / f"cpu.cfs_{name}_us"))) for name in ("quota", "period"))
        return quota_us / period_us if quota_us > 0 else None
    except (ValueError, IndexError, ZeroDivisionError):  # not there, or in words of another kernel's
        return None


def _counts(group: Path) -> Throttling | None:
    known = dict(line.split(" ", 1) for line in _lines(group / "cpu.stat") if " " in line)
    try:
        nanoseconds = int(known["throttled_time"]) if "throttled_time" in known else 1000 * int(known["throttled_usec"])
        return Throttling(
            periods=int(known["nr_periods"]), throttled=int(known["nr_throttled"]), seconds=nanoseconds / 1e9
        )
    except (KeyError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
