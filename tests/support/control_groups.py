"""Real control groups with a quota, where the tests may make them (root, version 1)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_TOP = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000


@contextlib.contextmanager
def control_group(*, quota_us: int) -> Iterator[Path]:
    """Give a group inside of one that may run for so many of 100,000 us; the inner one has no limit of its own."""
    folder = _TOP / f"resx-test-{os.getpid()}"
    try:
        (folder / "inner").mkdir(parents=True)
        (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made here: {error.strerror}")
    try:
        yield folder / "inner"
    finally:
        for path in (folder / "inner", folder):
            path.rmdir()
