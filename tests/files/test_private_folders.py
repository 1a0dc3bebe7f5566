"""The cache and the state folder: what another user could have written there is neither read nor run nor signaled.

Another user's files are made by root alone; everything else holds for whoever runs the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resx.errors import ResxError, ServerError, UsageError
from resx.export import export_cache
from resx.export.int8 import calibration
from resx.files.locks import exclusive
from resx.files.own_folders import cache_folder, make_cache_folder, make_state_folder, state_folder
from resx.files.staging import remove_abandoned
from resx.repository.versions import Repository
from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.triton_process import remove_remains, shared_memory_prefix
from resx.serving.running import processes, state_folders, version_records
from resx.serving.running import server_state as states
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import stop
from resx.zoo.weights import pretrained
from tests.support.command import Finished

SOMEBODY = 54321
"""A user without an account here, and without any right."""
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "cache"))
    return Repository(tmp_path / "model_repository")


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def open_to_all_but_sticky(path: Path) -> None:
    path.chmod(0o1777)


def open_to_a_group_of_others(path: Path) -> None:
    """`nogroup`, or whatever group another account has."""
    os.chown(path, -1, NOBODY)
    path.chmod(0o775)


def given_away(path: Path) -> None:
    os.chown(path, SOMEBODY, -1)


def replaced_by_a_link(path: Path) -> None:
    moved = path.with_name(f"{path.name}-moved")
    path.rename(moved)
    path.symlink_to(moved)


CHANGES = [
    open_to_all,
    open_to_all_but_sticky,
    replaced_by_a_link,
    *(pytest.param(change, marks=needs_root) for change in (given_away, open_to_a_group_of_others)),
]


@pytest.mark.parametrize("below", [(), ("triton",), ("triton", "a")])
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_of_the_cache_that_others_could_change_is_refused(
    repository: Repository, below: tuple[str, ...], change: Callable[[Path], None]
) -> None:
    make_cache_folder("triton", "a")
    changed = cache_folder(*below)
    change(changed)
    for use in (cache_folder, make_cache_folder):
        with pytest.raises(UsageError, match=f"^{changed}: .*set RESX_CACHE to a folder of your own"):
            use("triton", "a")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_state_folder_that_others_could_change_is_refused_by_whatever_reads_it(
    repository: Repository, depth: int, change: Callable[[Path], None]
) -> None:
    folder = state_folders.make_folder(repository)
    states.write_state(folder, some_state(folder, os.getpid()))
    changed = (folder, *folder.parents)[2 - depth]
    mode = stat.S_IMODE(folder.stat().st_mode)
    change(changed)
    reads: list[Callable[[], object]] = [
        lambda: states.running_server(repository), lambda: states.is_starting(repository),
        lambda: states.server_at("127.0.0.1:1"), lambda: states.gave_up(repository),
        lambda: version_records.read_deployed(repository), lambda: version_records.previous(repository, "m"),
        lambda: version_records.record_deployed(repository, "m", [1]),
        lambda: version_records.record_previous(repository, "", "m", 1),
        lambda: stop(repository),
    ]  # fmt: skip
    if depth < 2 or change not in (open_to_all, open_to_all_but_sticky, open_to_a_group_of_others):
        reads.append(lambda: state_folders.make_folder(repository))
    for read in reads:
        with pytest.raises(UsageError, match=f"^{changed}: .*set RESX_STATE to a folder of your own"):
            read()
    if change is replaced_by_a_link and depth == 2:  # what it leads to stays as it was
        assert stat.S_IMODE(changed.stat().st_mode) == mode


@needs_root
def test_an_open_folder_of_our_own_is_closed_but_not_with_what_others_left_in_it(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    states.write_state(folder, some_state(folder, os.getpid()))
    open_to_all(folder)
    assert state_folders.make_folder(repository) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    open_to_all(folder)
    (folder / "server.log").symlink_to("/etc/hostname")
    os.chown(folder / "server.log", SOMEBODY, -1, follow_symlinks=False)
    with pytest.raises(
        UsageError, match=r"server.log: belongs to another user \(its folder was writable by everyone\)"
    ):
        state_folders.make_folder(repository)


@pytest.mark.parametrize("arguments", [["serve"], ["stop"], ["status"], ["logs"], ["undeploy", "m"], ["gc"]])
def test_every_command_says_so_in_one_line(
    repository: Repository, tmp_path: Path, resx: Callable[..., Finished], arguments: list[str]
) -> None:
    repository.root.mkdir()
    (tmp_path / "target").mkdir(mode=0o755)
    (make_state_folder("servers") / state_folders.folder_of(repository).name).symlink_to(tmp_path / "target")
    done = resx(*arguments, "-q")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "is a symbolic link, which resx does not follow here" in done.err
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o755
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize("name", [states.STATE, states.KEY, states.ENDED, f"{state_folders.DEPLOYED}/m"])
@pytest.mark.parametrize("change", [open_to_all, replaced_by_a_link, pytest.param(given_away, marks=needs_root)])
def test_a_file_of_the_state_that_others_could_change_is_refused(
    repository: Repository, name: str, change: Callable[[Path], None]
) -> None:
    folder = state_folders.make_folder(repository)
    state = some_state(folder, os.getpid())
    states.write_state(folder, state)
    (folder / states.KEY).write_text("key")
    (folder / states.ENDED).write_text("{}")
    version_records.record_deployed(repository, "m", [1])
    change(folder / name)

    def read_all() -> None:
        states.read_state(folder)
        state.address("grpc")
        states.gave_up(repository)
        version_records.read_deployed(repository)

    with pytest.raises(UsageError, match=f"{folder / name}: "):
        read_all()


def test_folders_above_may_be_links_and_sticky_but_not_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    (tmp_path / "link").symlink_to(above)
    (tmp_path / "again").symlink_to("link/../link")
    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "again" / "cache"))
    above.chmod(0o1777)
    assert make_cache_folder() == tmp_path / "again" / "cache"
    above.chmod(0o777)
    with pytest.raises(UsageError, match=f"^{above}: other users can write it .*chmod go-w {above}$"):
        cache_folder()
    above.chmod(0o755)
    assert cache_folder().is_dir()
    (tmp_path / "round").symlink_to("round")
    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "round" / "cache"))
    with pytest.raises(UsageError, match="too many links; set RESX_CACHE"):
        cache_folder()


@needs_root
def test_a_folder_above_of_another_account_is_refused_and_one_of_a_container_s_host_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount brings owners that no account here has; they are not users of this machine."""
    above = tmp_path / "above"
    above.mkdir()
    monkeypatch.setenv("RESX_CACHE", str(above / "cache"))
    make_cache_folder()
    os.chown(above, SOMEBODY, -1)
    assert cache_folder().is_dir()
    other = next(user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid(), NOBODY))
    os.chown(above, other.pw_uid, -1)
    with pytest.raises(UsageError, match=f"^{above}: belongs to another user, {other.pw_name}"):
        cache_folder()


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_resx_makes_itself_is_closed_whatever_the_umask(repository: Repository, umask: int) -> None:
    """With 002 every user's folders are open to a group of their own, in which nobody else is."""
    before = os.umask(umask)
    try:
        calibration.keep_table("key", {"x": (0.0, 1.0)})
        version = repository.root / "m" / "1"
        version.mkdir(parents=True)
        (version / "card.json").write_text("{}")
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(export_cache.LIMIT_VARIABLE, raising=False)
            export_cache.keep("key", version)
        state_folders.make_folder(repository)
        version_records.record_deployed(repository, "m", [1])
        version_records.record_previous(repository, "", "m", 1)
    finally:
        os.umask(before)
    assert calibration.read_kept_table("key") == {"x": (0.0, 1.0)}
    assert version_records.read_deployed(repository) == {"m": (1,)}
    assert version_records.previous(repository, "m") == {"": 1}
    made = [path for top in (cache_folder(), state_folder()) for path in (top, *top.rglob("*"))]
    assert len(made) > 8
    assert {str(path): oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o022} == {}
    folders = [path for path in (state_folder(), *state_folder().rglob("*")) if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


@pytest.fixture
def installed(repository: Repository) -> Iterator[Path]:
    """A server that is laid out as the wheel is, of empty files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_installation, "missing_for_install", lambda: None)
        root = make_cache_folder("triton") / triton_installation._install_root().name
        for name in ("bin/tritonserver", "libs/libx.so", "backends/python/triton_python_backend_stub"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch(mode=0o755)
        yield root


@pytest.mark.parametrize("name", ["bin/tritonserver", "bin", "libs/libx.so", "backends", "backends/python"])
@pytest.mark.parametrize("change", [open_to_all, replaced_by_a_link, pytest.param(given_away, marks=needs_root)])
def test_a_server_that_somebody_else_could_have_written_is_not_run(
    installed: Path, name: str, change: Callable[[Path], None]
) -> None:
    assert triton_installation.find_installed() is not None
    change(installed / name)
    for use in (triton_installation.find_installed, triton_installation.install):
        with pytest.raises(UsageError, match=f"^{installed / name}: "):
            use()


def test_doctor_shows_it_and_goes_on(installed: Path, resx: Callable[..., Finished]) -> None:
    open_to_all(installed / "bin/tritonserver")
    done = resx("doctor", "--json")
    assert done.code == 0, done.err
    if triton_installation.missing_for_install() is None:
        (found,) = [check for check in done.json["checks"] if check["what"] == "embedded Triton"]
        assert not found["found"]
        assert "chmod go-w" in found["remedy"]


@pytest.mark.parametrize("change", [open_to_all, replaced_by_a_link])
def test_other_files_of_the_cache_are_looked_at_before_they_are_used(
    repository: Repository, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(export_cache.LIMIT_VARIABLE, raising=False)
    calibration.keep_table("key", {"x": (0.0, 1.0)})
    (make_cache_folder("weights") / "w.pth").touch()
    (make_cache_folder("downloads") / triton_installation.WHEEL).touch()
    (make_cache_folder("exports", "key") / "card.json").touch()
    uses: dict[str, Callable[[], object]] = {
        "calibration/key.json": lambda: calibration.read_kept_table("key"),
        "weights/w.pth": lambda: pretrained.fetch("http://127.0.0.1:1/w.pth", "w.pth"),
        f"downloads/{triton_installation.WHEEL}": lambda: triton_installation._fetch_wheel(lambda _step: None),
        "exports/key/card.json": lambda: export_cache.find("key"),
    }
    for name, use in uses.items():
        change(cache_folder() / name)
        with pytest.raises(UsageError, match=f"{name}: .*RESX_CACHE"):
            use()


def some_state(folder: Path, pid: int, **changes: object) -> ServerState:
    fields = {
        "pid": pid,
        "server_pid": 0,
        "repository": "r",
        "http_port": 1,
        "grpc_port": 2,
        "metrics_port": 3,
        "started": 1.0,
        "log": str(folder / states.LOG),
    } | changes
    return ServerState.model_validate(fields)


@contextlib.contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("changes", [{}, {"start_ticks": 1}, {"executable": "/bin/sleep"}, {"executable": ""}])
def test_stop_signals_no_process_that_only_has_the_servers_id(
    repository: Repository, changes: dict[str, object]
) -> None:
    folder = state_folders.make_folder(repository)
    with sleeping() as victim:
        known = {"start_ticks": processes.start_ticks(victim.pid), "executable": os.path.realpath(sys.executable)}
        fields = known | changes if changes else {}
        states.write_state(folder, some_state(folder, victim.pid, **fields))
        with exclusive(folder), pytest.raises(ServerError, match=f"process {victim.pid}: is not the server"):
            stop(repository)
        with pytest.raises(subprocess.TimeoutExpired):
            victim.wait(0.3)


@needs_root
def test_stop_signals_no_process_of_another_user(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    command = ["sleep", "600"]
    with subprocess.Popen(command, user=NOBODY) as victim:
        program = str(Path(f"/proc/{victim.pid}/exe").readlink())
        ticks = processes.start_ticks(victim.pid)
        states.write_state(folder, some_state(folder, victim.pid, start_ticks=ticks, executable=program))
        with exclusive(folder), pytest.raises(ServerError, match="is not the server"):
            stop(repository)
        assert victim.poll() is None
        victim.kill()


def test_stop_ends_the_process_that_was_recorded(repository: Repository) -> None:
    folder = state_folders.make_folder(repository)
    with sleeping() as server:
        program = str(Path(f"/proc/{server.pid}/exe").readlink())
        ticks = processes.start_ticks(server.pid)
        states.write_state(folder, some_state(folder, server.pid, start_ticks=ticks, executable=program))
        with exclusive(folder):
            assert stop(repository) is not None
        assert server.wait(10) == -signal.SIGTERM
        assert processes.terminate(processes.Process(pid=server.pid, start_ticks=ticks, executable=program)) is False


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 10**30])
def test_a_state_that_names_no_process_is_no_server(repository: Repository, pid: int) -> None:
    """0 and below would reach whole groups of processes."""
    folder = state_folders.make_folder(repository)
    text = some_state(folder, 1).model_dump() | {"pid": pid}
    (folder / states.STATE).write_text(json.dumps(text))
    with exclusive(folder):
        assert states.running_server(repository) is None


def test_the_log_is_where_the_state_is_whatever_the_file_says(repository: Repository, tmp_path: Path) -> None:
    folder = state_folders.make_folder(repository)
    (tmp_path / states.KEY).write_text("a key of theirs")
    (folder / states.KEY).write_text("ours")
    states.write_state(folder, some_state(folder, 1, log=str(tmp_path / "server.log")))
    state = states.read_state(folder)
    assert state is not None
    assert state.log == str(folder / states.LOG)
    assert state.address("grpc").control_key == "ours"


def test_what_a_killed_supervisor_left_is_ended_and_what_only_looks_like_it_is_not() -> None:
    """Their command lines say whose they are; the server's start time says that its id is not another's by now."""
    argument = f"x={shared_memory_prefix(4_000_000, 1)}"
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", argument]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()  # only now is its command line its own
        ticks = processes.start_ticks(server.pid)
        remove_remains(server.pid, 4_000_000, 1, start_ticks=ticks + 1)
        assert server.poll() is None
        remove_remains(server.pid, 4_000_000, 1, start_ticks=ticks)
        assert server.wait(10) == -signal.SIGKILL


def test_odd_names_of_staged_folders_are_no_processes(tmp_path: Path) -> None:
    names = [".staging-²-x", ".staging-٣-x", f".staging-{10**30}-x", ".staging--x", ".staging-0x1-x"]
    for name in names:
        (tmp_path / name).mkdir()
    mine = tmp_path / f".staging-{os.getpid()}-x"
    mine.mkdir()
    assert len(remove_abandoned(tmp_path)) == len(names)
    assert list(tmp_path.iterdir()) == [mine]


def test_a_state_folder_that_cannot_be_looked_into_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for top in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        monkeypatch.setenv("RESX_STATE", str(top))
        with pytest.raises((ResxError, OSError)) as found:
            state_folders.make_folder(Repository(tmp_path / "model_repository"))
        assert isinstance(found.value, UsageError)
        assert "set RESX_STATE" in str(found.value)
