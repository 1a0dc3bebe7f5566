"""A user without a home folder, as in a container under a random id."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from resx.errors import UsageError
from resx.files.home import settle_home
from resx.files.own_folders import cache_folder, make_cache_folder, make_state_folder, state_folder

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable names a folder or a user, and passwd has no entry; the folder for temporary files."""
    for name in ("RESX_CACHE", "RESX_STATE", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME", *_NAMES):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever `settle_home` sets
        monkeypatch.delenv(name)

    def no_entry(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stand_in(temporary: Path) -> Path:
    return temporary / f"resx-home-{os.geteuid()}"


@pytest.mark.parametrize("home", [None, "", "relative", "~", "/dev/null/home", "/dev/null"])
def test_a_private_folder_stands_in_for_a_home_that_cannot_be_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str | None
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)

    made = make_cache_folder("a"), make_state_folder("b"), cache_folder()

    folder = stand_in(temporary)
    assert all(path.is_relative_to(folder) for path in made)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["HOME"] == str(folder)
    said = capsys.readouterr().err
    assert said.count(str(folder)) == 1
    assert "RESX_CACHE and RESX_STATE" in said
    assert [path.name for path in temporary.iterdir()] == [folder.name]  # none that is called ~


def test_whoever_asks_for_the_users_name_gets_one(temporary: Path) -> None:
    settle_home()

    assert getpass.getuser() == f"uid-{os.geteuid()}"


def test_a_home_that_can_be_used_stays(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = temporary / "to be made"
    monkeypatch.setenv("HOME", str(home))

    assert state_folder() == home / ".local/state/resx"
    assert capsys.readouterr().err == ""
    assert not stand_in(temporary).exists()


def test_an_empty_home_is_the_one_of_passwd(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    entry = pwd.struct_passwd(("me", "x", os.geteuid(), 0, "", str(temporary), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _user: entry)

    assert cache_folder() == temporary / ".cache/resx"


def test_folders_that_are_named_are_taken_without_a_word(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESX_CACHE", str(temporary / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(temporary / "x"))

    assert (cache_folder(), state_folder()) == (temporary / "c", temporary / "x" / "resx")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("spoil", ["open", "link"])
def test_a_folder_that_somebody_else_can_write_does_not_stand_in(temporary: Path, spoil: str) -> None:
    folder = stand_in(temporary)
    (temporary / "other").mkdir()
    if spoil == "link":
        folder.symlink_to(temporary / "other")
    else:
        folder.mkdir()
        folder.chmod(0o777)

    with pytest.raises(UsageError, match="set HOME, or RESX_CACHE and RESX_STATE"):
        settle_home()


def test_what_stands_in_is_not_needed_where_both_folders_are_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(temporary).symlink_to(temporary)
    monkeypatch.setenv("RESX_CACHE", str(temporary / "c"))
    monkeypatch.setenv("RESX_STATE", str(temporary / "s"))

    settle_home()

    assert "HOME" not in os.environ


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="becomes another user by root's right")
def test_commands_work_under_an_id_without_a_name(tmp_path: Path) -> None:
    user, folder = 54321, tmp_path / "work"
    folder.mkdir()
    os.chown(folder, user, 0)
    for path in (tmp_path, *tmp_path.parents[:2]):  # pytest's own are closed to others
        path.chmod(0o755)
    as_user = [
        "setpriv",
        f"--reuid={user}",
        "--regid=0",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    kept |= {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    for command in (["status"], ["export", "resnet20", "--name", "a"], ["doctor"]):
        done = subprocess.run(
            [*as_user, sys.executable, "-m", "resx", *command],
            cwd=folder,
            env=kept,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (4 if command == ["status"] else 0), done.stderr  # no server runs

    assert (folder / "model_repository/a/1/model.onnx").is_file()
    assert not (folder / "~").exists()
