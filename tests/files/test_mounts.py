"""Folders on file systems that have no locks, or run no programs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.files.locks import exclusive, require_lockable
from resx.files.mounts import CannotLock, file_system_of, refuses_programs
from resx.repository.versions import Repository
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

WITHOUT_LOCKS = "import fcntl, os\ndef flock(*_):\n    raise OSError({0}, os.strerror({0}))\nfcntl.flock = flock\n"


def environment(folder: Path, number: int) -> dict[str, str]:
    """An environment whose Pythons get this error for every flock, as on a file system without locks."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT_LOCKS.format(number))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))}


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_that_cannot_be_locked_is_named_with_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)

    with pytest.raises(CannotLock) as refused, exclusive(tmp_path):
        pass

    assert str(refused.value).startswith(f"{tmp_path} ({file_system_of(tmp_path)}): cannot be locked (")
    assert os.strerror(number) in str(refused.value)
    with pytest.raises(CannotLock):
        require_lockable(tmp_path / "not" / "there" / "yet")


def test_a_lock_that_somebody_holds_is_no_missing_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        require_lockable(tmp_path)
        with pytest.raises(BlockingIOError), exclusive(tmp_path, wait=False):
            pass


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK])
@pytest.mark.parametrize(
    "command",
    [
        ["export", "resnet20", "--name", "b"],
        ["serve", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"],
        ["predict", "tiny", "images", "-o", "out.csv"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_needs_a_lock_says_so_before_its_work(
    resx: Callable[..., Finished], tmp_path: Path, command: list[str], number: int
) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.ppm").write_bytes(b"P6 16 16 255 " + bytes(16 * 16 * 3))
    before = {path for path in tmp_path.rglob("*") if "site" not in path.parts}

    done = resx(*command, env=environment(tmp_path, number))

    assert done.code == 4, done.err
    assert "cannot be locked" in done.err
    assert file_system_of(tmp_path) in done.err
    assert "structure" not in done.err  # the export did not begin
    assert {path for path in tmp_path.rglob("*") if "site" not in path.parts} == before


def test_training_goes_on_without_a_lock_and_says_so(resx: Callable[..., Finished], tmp_path: Path) -> None:
    done = resx(
        "train",
        "resnet20",
        "--data",
        "digits",
        "--epochs",
        "1",
        "-o",
        "run",
        "--seed",
        "0",
        env=environment(tmp_path, errno.ENOLCK) | {"OMP_NUM_THREADS": "1"},
    )

    assert done.code == 0, done.err
    assert "cannot be locked" in done.err
    assert "a second `train` could write" in done.err


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare, which mounts for one command, is not installed")
def test_a_cache_where_no_program_may_run_is_found_before_anything_is_unpacked(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    resx = f"{sys.executable} -m resx"
    check = (
        f"mount -t tmpfs -o noexec,mode=755 x {cache} && export RESX_CACHE={cache} && cd {tmp_path} && "
        f"mkdir model_repository && {resx} serve; echo code $?; {resx} doctor --json; ls -A {cache}"
    )

    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", check], capture_output=True, text=True, check=False, timeout=200
    )

    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.splitlines()[0]}")
    assert "code 4" in done.stdout
    assert f"{cache}/triton (tmpfs): is mounted noexec" in done.stderr
    assert "set RESX_CACHE" in done.stderr
    assert f'"detail": "{cache}/triton (tmpfs): is mounted noexec' in done.stdout
    assert done.stdout.rstrip().endswith("}")  # `ls` has nothing to show


def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount() -> None:
    assert file_system_of(Path("/proc/self")) == "proc"
    assert refuses_programs(Path("/proc/self/none/such")) == refuses_programs(Path("/proc"))
