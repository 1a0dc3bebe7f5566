import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resx import names
from resx.errors import ResxError, UsageError
from resx.files import disk_space, locks, staging


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "with space", "ü", "a" * 129, "-flag"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        names.checked_name(name)


@pytest.mark.parametrize("name", ["resnet50", "a", "digits_fp16", "v1.5-x", "9"])
def test_an_ordinary_name_is_kept(name: str) -> None:
    assert names.checked_name(name) == name


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    staging.write_atomic(target, "old")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        staging.write_atomic(target, "new")

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_published_folder_is_never_replaced(tmp_path: Path) -> None:
    with staging.staging_folder(tmp_path) as staged:
        (staged / "model").write_text("1")
        staging.publish_folder(staged, tmp_path / "1")
    with staging.staging_folder(tmp_path) as staged, pytest.raises(UsageError, match="exists already"):
        staging.publish_folder(staged, tmp_path / "1")

    assert (tmp_path / "1" / "model").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_what_is_written_has_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        staging.write_atomic(tmp_path / "deeper" / "a.json", "{}")
        staging.write_atomic(tmp_path / "run.sh", "", mode=0o777)
        staging.write_atomic(tmp_path / "key", "", mode=0o600)
        with staging.staging_folder(tmp_path) as staged:
            (staged / "1").mkdir()
            (staged / "1" / "model").write_text("1")
            staging.publish_folder(staged, tmp_path / "m")
    finally:
        os.umask(before)

    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    folder, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {
        "deeper": folder,
        "deeper/a.json": file,
        "run.sh": folder,
        "key": 0o600,
        "m": folder,
        "m/1": folder,
        "m/1/model": file,
    }


def test_the_holder_of_a_lock_is_named(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from resx.files.locks import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    assert locks.lock_holder(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert locks.lock_holder(tmp_path) == process.pid
        process.communicate()
    assert locks.lock_holder(tmp_path) is None


def test_what_a_killed_process_left_staged_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from resx.files.staging import staging_folder\n"
        f"with staging_folder(pathlib.Path({str(tmp_path)!r})) as s:\n"
        "    (s / 'half').write_text('x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with staging.staging_folder(tmp_path) as mine:
        assert len(list(tmp_path.iterdir())) == 2

        removed = staging.remove_abandoned(tmp_path)

        assert len(removed) == 1
        assert list(tmp_path.iterdir()) == [mine]


REMOVE = (
    "import sys, pathlib; from resx.files.staging import remove_abandoned as remove; "
    "print(len(remove(pathlib.Path(sys.argv[1]))))"
)


def removed_by_another_process(parent: Path) -> int:
    done = subprocess.run([sys.executable, "-c", REMOVE, str(parent)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_living_ones_is_kept_where_its_process_id_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen from another container: ids are not shared, the kernel is."""
    monkeypatch.setattr(os, "getpid", lambda: 4_000_000)
    with staging.staging_folder(tmp_path) as staged:
        assert removed_by_another_process(tmp_path) == 0
        assert list(tmp_path.iterdir()) == [staged]


def test_a_file_is_kept_while_it_is_written_by_a_process_of_another_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 4_000_000)
    seen = []

    def slow(_descriptor: int) -> None:
        seen.append(removed_by_another_process(tmp_path))

    monkeypatch.setattr(os, "fsync", slow)
    staging.write_atomic(tmp_path / "a.json", "new")
    assert seen[0] == 0
    assert (tmp_path / "a.json").read_text() == "new"


@pytest.mark.parametrize(
    "write",
    [
        "with staging_folder(here) as s: os.kill(me, 9)",
        "os.fsync = lambda _: os.kill(me, 9); write_atomic(here / 'a', b'x')",
    ],
)
def test_what_a_killed_process_left_is_removed_though_its_id_lives_here(tmp_path: Path, write: str) -> None:
    code = (
        "import os, pathlib; from resx.files.staging import staging_folder, write_atomic\n"
        f"me, os.getpid, here = os.getpid(), lambda: {os.getpid()}, pathlib.Path({str(tmp_path)!r})\n{write}"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(staging.remove_abandoned(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_another_host_staged_is_left_alone_until_nothing_changed_for_a_day(tmp_path: Path) -> None:
    """Over NFS its lock is not seen here."""
    staged = tmp_path / f".staging-{os.getpid()}-ffffffff-x"
    (staged / "1").mkdir(parents=True)
    (staged / "1" / "model.onnx").touch()
    assert staging.remove_abandoned(tmp_path) == []
    yesterday = time.time() - 25 * 3600
    for path in (staged / "1" / "model.onnx", staged / "1", staged):
        os.utime(path, (yesterday, yesterday))
    assert staging.remove_abandoned(tmp_path) == [staged]
    assert not staged.exists()


def test_what_an_older_version_staged_is_judged_by_its_process(tmp_path: Path) -> None:
    living, dead = tmp_path / f".staging-{os.getpid()}-abcdefgh", tmp_path / ".staging-4000000-abcdefgh"
    living.mkdir()
    dead.touch()
    assert staging.remove_abandoned(tmp_path) == [dead]
    assert list(tmp_path.iterdir()) == [living]


def test_a_lock_excludes_others_and_ends_with_its_holder(tmp_path: Path) -> None:
    with locks.exclusive(tmp_path), pytest.raises(BlockingIOError), locks.exclusive(tmp_path, wait=False):
        pass
    with locks.exclusive(tmp_path, wait=False):
        pass


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ResxError, match="MB free; free some space"):
        disk_space.require_free_space(tmp_path / "not" / "there", 10**18)


def test_a_zombie_does_not_count_as_living() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not locks.process_lives(child.pid)
    finally:
        child.wait()
