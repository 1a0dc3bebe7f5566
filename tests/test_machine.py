"""How much of a machine this process may use: cores, quotas of nested control groups of both versions, open files."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resx.machine import (
    Throttling,
    cpu_quota,
    instruction_set,
    lacks_open_files,
    quota_note,
    throttled_between,
    throttling,
    usable_cores,
)
from tests.support.control_groups import control_group


def machine(root: Path, *, groups: str, mounts: list[str]) -> Path:
    """Write /proc/self of a machine whose file system begins at `root`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return root


def group(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


UNIFIED = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
LEGACY = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 4), ("100000 100000", 1), ("150000 100000", 2), ("20000 100000", 1),
                           ("25000 10000", 3), ("800000 100000", 4), ("words", 4), ("", 4)],
)  # fmt: skip
def test_threads_are_the_quota_rounded_up_and_no_more_than_the_cores(
    tmp_path: Path, four_cores: None, quota: str, threads: int
) -> None:
    root = machine(tmp_path, groups="0::/pod\n", mounts=[UNIFIED])
    group(root, "pod", cpu__max=quota)

    assert usable_cores(root) == threads


def test_the_tightest_of_nested_groups_counts(tmp_path: Path, four_cores: None) -> None:
    root = machine(tmp_path, groups="0::/pod/container/inner\n", mounts=[UNIFIED])
    group(root, "pod", cpu__max="200000 100000")
    group(root, "pod/container", cpu__max="300000 100000")
    group(root, "pod/container/inner", cpu__max="max 100000")

    assert (cpu_quota(root), usable_cores(root)) == (2.0, 2)
    assert "CPU quota of 2 cores" in quota_note(root)
    assert "4 cores visible: 2 threads" in quota_note(root)


def test_version_1_is_read_too(tmp_path: Path, four_cores: None) -> None:
    root = machine(tmp_path, groups="7:blkio:/x\n3:cpu,cpuacct:/docker/id\n0::/other\n", mounts=[LEGACY])
    group(root, "cpu,cpuacct/docker/id", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    group(root, "cpu,cpuacct/docker", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")

    assert (cpu_quota(root), usable_cores(root)) == (0.5, 1)


@pytest.mark.parametrize(
    ("groups", "mount"),
    [
        ("0::/\n", UNIFIED),  # a container with a name space of its own
        ("0::/docker/id\n", UNIFIED.replace(" / /sys", " /docker/id /sys")),  # one that sees its host's path
        ("0::/../../elsewhere\n", UNIFIED),  # a group outside of what is mounted
        ("0::/gone\n", UNIFIED),
    ],
)
def test_a_containers_own_group_is_at_its_mount(tmp_path: Path, four_cores: None, groups: str, mount: str) -> None:
    root = machine(tmp_path, groups=groups, mounts=[mount])
    group(root, ".", cpu__max="100000 100000")

    assert usable_cores(root) == 1


@pytest.mark.parametrize("quota", ["max 100000", "400000 100000"])
def test_nothing_is_said_of_a_quota_that_is_not_below_the_cores(tmp_path: Path, four_cores: None, quota: str) -> None:
    root = machine(tmp_path, groups="0::/\n", mounts=[UNIFIED])
    group(root, ".", cpu__max=quota)

    assert quota_note(root) == ""


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path, four_cores: None) -> None:
    assert (cpu_quota(tmp_path), usable_cores(tmp_path), throttling(root=tmp_path)) == (None, 4, {})


@pytest.mark.parametrize(
    ("version", "stat"),
    [
        (2, "usage_usec 9\nnr_periods {}\nnr_throttled {}\nthrottled_usec {}000000"),
        (1, "nr_periods {}\nnr_throttled {}\nthrottled_time {}000000000"),
    ],
)
def test_throttling_between_two_readings_is_that_of_the_group_that_stood_still(
    tmp_path: Path, version: int, stat: str
) -> None:
    if version == 2:
        root = machine(tmp_path, groups="0::/pod\n", mounts=[UNIFIED])
        limits = {"cpu__max": "100000 100000"}
    else:
        root = machine(
            tmp_path, groups="3:cpu:/pod\n", mounts=[UNIFIED.replace("cgroup2 cgroup2 rw", "cgroup x rw,cpu")]
        )
        limits = {"cpu__cfs_quota_us": "100000", "cpu__cfs_period_us": "100000"}
    group(root, "pod", **limits, cpu__stat=stat.format(10, 4, 1))
    before = throttling(root=root)
    assert throttled_between(before, throttling(root=root)) is None

    group(root, "pod", cpu__stat=stat.format(30, 19, 3))

    found = throttled_between(before, throttling(root=root))
    assert found == (root / "sys/fs/cgroup/pod", Throttling(periods=20, throttled=15, seconds=2.0))


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A real control group of half a core, with one inside it that has no limit of its own."""
    with control_group(quota_us=50_000) as group:
        yield group


@pytest.mark.parametrize("set_by_user", ["", "7"])
def test_the_kernels_own_quota_is_found_and_what_is_started_gets_it(limited_group: Path, set_by_user: str) -> None:
    code = (
        f"import os; open('{limited_group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from resx import machine\n"
        "machine.limit_libraries()\n"
        "from resx.serving.embedded.backend_session import this_process\n"
        "print(machine.cpu_quota(), machine.usable_cores(), os.environ['OMP_NUM_THREADS'], this_process().cores)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": set_by_user} if set_by_user else {}
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one core: no quota is below it by a thread")

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.stdout.split() == ["0.5", "1", set_by_user or "1", "1"], done.stderr


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (64, 64), (100, 100)])
def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(soft: int, hard: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    code = (
        "import resource; from resx.machine import lacks_open_files\n"
        "print(lacks_open_files(256, 'it') or resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=True)

    said = f"{hard} open files are allowed here and it needs 256; raise the hard limit (ulimit -Hn 256"
    assert done.stdout.startswith(str(hard) if hard >= 256 else said)


def test_enough_open_files_are_nothing_to_speak_of() -> None:
    assert lacks_open_files(10, "this") == ""


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("flags\t\t: sse2 avx2 fma", "avx2"),
        ("flags : avx2 avx_vnni", "avx_vnni"),
        ("flags : avx2 avx512f avx512bw", "avx512"),
        ("flags : avx512_bf16 avx512_vnni avx512f avx2", "avx512_bf16"),
        ("flags : avx512_vnni avx512f avx2", "avx512_vnni"),
        ("flags : amx_bf16 amx_tile avx512_bf16 avx2", "amx"),
        ("Features : fp asimd evtstrm", "neon"),
        ("Features : fp asimd sve bf16", "sve"),
        ("flags : sse2", platform.machine()),
        ("model name : X", platform.machine()),
    ],
)
def test_the_widest_instructions_of_the_processor_are_named(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert instruction_set(tmp_path) == named


def test_a_machine_that_does_not_describe_its_processor_is_named_by_its_kind(tmp_path: Path) -> None:
    assert instruction_set(tmp_path) == platform.machine()
