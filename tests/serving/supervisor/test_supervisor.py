"""Starting, stopping and dying: no orphan process, no leaked shared memory, no second server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from resx.errors import MissingCapability, UsageError
from resx.repository.versions import Repository
from resx.serving.embedded import triton_process
from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.server_ports import Ports
from resx.serving.running import server_state as states
from resx.serving.running import state_folders
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor import supervisor
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
FREE = Ports(http=0, grpc=0, metrics=0)
ANY_PORTS = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    repository.root.mkdir()
    yield repository
    if supervisor.running_server(repository):
        supervisor.stop(repository)


def shared_memory(supervisor_pid: int) -> list[str]:
    """The regions of one server: other servers may run on this machine."""
    return [path.name for path in Path("/dev/shm").glob(f"resx-{supervisor_pid}-*")]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_stop_leaves_no_process_and_no_shared_memory(repository: Repository) -> None:
    publish_tiny(repository, "tiny")
    state = supervisor.serve_detached(repository, FREE)
    family = [state.pid, state.server_pid, *(child.pid for child in psutil.Process(state.server_pid).children(True))]
    assert len(family) >= 3, "supervisor, server and at least one stub"
    assert shared_memory(state.pid)

    supervisor.stop(repository)

    assert not any(alive(pid) for pid in family)
    assert not shared_memory(state.pid)
    assert supervisor.running_server(repository) is None
    assert supervisor.stop(repository) is None, "nothing is left to stop"


def test_stop_without_a_server_is_done_and_says_so(repository: Repository, resx: Callable[..., Finished]) -> None:
    where = f"--repository={repository.root}"
    done = resx("stop", where)
    assert (done.code, done.out, done.err) == (0, f"{repository.root}: no server is running\n", "")
    assert resx("stop", where, "--json").json == {"stopped": None}

    state = supervisor.serve_detached(repository, FREE, ["--load-none"])
    assert resx("stop", where, "--json").json == {"stopped": state.pid}
    assert resx("stop", where).code == 0, "twice is no mistake"

    states.write_state(state_folders.make_folder(repository), state)  # what a supervisor that was killed leaves behind
    done = resx("stop", where)
    assert (done.code, done.out) == (0, f"{repository.root}: no server is running\n")


def test_a_second_server_of_the_same_repository_is_refused(
    repository: Repository, resx: Callable[..., Finished]
) -> None:
    state = supervisor.serve_detached(repository, FREE)
    for arguments in (["--detach"], []):
        done = resx(
            "serve", f"--repository={repository.root}", "--http-port=0", "--grpc-port=0", "--metrics-port=0", *arguments
        )
        assert done.code == 2
        assert f"is served already at 127.0.0.1:{state.http_port} by process {state.pid}" in done.err
        assert done.err.count("error:") == 1


def test_a_taken_port_is_named(repository: Repository, resx: Callable[..., Finished]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments in (["--detach"], []):
            done = resx("serve", f"--repository={repository.root}", f"--http-port={port}", *arguments)
            assert done.code == 2
            assert f"--http-port {port}: Address already in use" in done.err


def test_a_killed_supervisor_takes_its_server_with_it_and_can_be_started_again(repository: Repository) -> None:
    publish_tiny(repository, "tiny")
    state = supervisor.serve_detached(repository, FREE)
    stubs = [child.pid for child in psutil.Process(state.server_pid).children(True)]

    os.kill(state.pid, signal.SIGKILL)

    wait_until(lambda: not any(alive(pid) for pid in [state.server_pid, *stubs]))
    assert supervisor.running_server(repository) is None, "the dead one's state file does not count"
    again = supervisor.serve_detached(repository, FREE)
    assert again.pid != state.pid


def test_a_stub_that_outlived_its_killed_server_is_ended_and_others_are_not() -> None:
    """Seen under load: a stub that waits for a lock which its server held as it was killed waits for ever."""

    def stand_in(region: str) -> subprocess.Popen[bytes]:
        words = [f"/elsewhere/{triton_process.STUB}", "-c", "import time; time.sleep(60)", region]
        return subprocess.Popen(words, executable=sys.executable)

    ours, others = stand_in("resx-999999-8000-5cc18802"), stand_in("resx-999999-80001-5cc18802")
    try:
        wait_until(lambda: all(triton_process.STUB in psutil.Process(one.pid).cmdline()[0] for one in (ours, others)))
        triton_process.remove_remains(server_pid=2**22 + 1, supervisor_pid=999999, http_port=8000)
        assert ours.wait(10) == -signal.SIGKILL
        assert others.poll() is None
    finally:
        for one in (ours, others):
            one.kill()
            one.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_in_the_foreground(repository: Repository, number: signal.Signals) -> None:
    publish_tiny(repository, "tiny")
    command = [sys.executable, "-m", "resx", "serve", f"--repository={repository.root}", *ANY_PORTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: supervisor.running_server(repository) is not None, 60)
        state = supervisor.running_server(repository)
        assert state is not None
        process.send_signal(number)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "✓ Ready: http://127.0.0.1:" in out
    assert err.count("Serving. Ctrl-C to stop.") == 1
    assert "Traceback" not in err
    assert not alive(state.server_pid)
    assert not shared_memory(process.pid)


def test_a_signal_while_it_starts_leaves_nothing(repository: Repository) -> None:
    publish_tiny(repository, "tiny")
    command = [sys.executable, "-m", "resx", "serve", f"--repository={repository.root}", *ANY_PORTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        me = psutil.Process(process.pid)
        wait_until(lambda: bool(me.children()), 60)
        server = me.children()[0].pid
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    wait_until(lambda: not alive(server), 10)
    assert not shared_memory(process.pid)


def test_a_model_that_fails_its_canary_is_named_and_the_others_are_served(
    repository: Repository, resx: Callable[..., Finished]
) -> None:
    publish_tiny(repository, "good")
    _, bad = publish_tiny(repository, "bad", seed=1)
    (bad.folder / "model.onnx").write_bytes(b"not the file that was verified")
    state = supervisor.serve_detached(repository, FREE)
    status = resx("status", f"--repository={repository.root}", "--json").json
    assert [model["name"] for model in status["models"]] == ["good"]
    assert "missing or not the file that was verified" in status["set_aside"]["bad"]
    assert "bad" in (Path(state.log).parent / "serve.log").read_text()


def test_a_repository_that_is_not_there_is_refused(resx: Callable[..., Finished]) -> None:
    done = resx("serve", "--repository=nowhere")
    assert (done.code, done.out) == (2, "")
    assert "nowhere: no such model repository" in done.err


def test_a_wheel_of_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / triton_installation.WHEEL).write_bytes(b"something else")
    with pytest.raises(MissingCapability, match="not the wheel this version of resx expects"):
        triton_installation.install()
    assert triton_installation.find_installed() is None


def test_without_an_index_the_message_says_where_to_put_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESX_CACHE", str(tmp_path))
    for name in ("PIP_NO_INDEX", "PIP_ISOLATED"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(MissingCapability, match=f"could not be fetched .* put it at .*{triton_installation.WHEEL}"):
        triton_installation.install()


def test_the_same_port_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="three different"):
        Ports(http=9, grpc=9).resolved()


@pytest.mark.parametrize(("moment", "line_before"), [("training", "Loaded PyTorch"), ("measuring", "over http")])
def test_ctrl_c_at_any_moment_of_the_demo_leaves_no_server_and_no_file(
    tmp_path: Path, moment: str, line_before: str
) -> None:
    """Steps are printed as they end, so a moment is the line before it."""
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "RESX_STATE": str(tmp_path / "state")}
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "resx", "demo", "--epochs", "1", "--duration", "30"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line_before in line)
        time.sleep(0.7)
        states = [ServerState.model_validate_json(path.read_bytes()) for path in tmp_path.rglob("server.json")]
        assert len(states) == (1 if moment == "measuring" else 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err
    assert out == ""
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not any(shared_memory(state.pid) for state in states)
    assert list((tmp_path / "tmp").glob("resx-*")) == []


def test_ctrl_c_ends_a_benchmark_and_the_server_goes_on(repository: Repository) -> None:
    publish_tiny(repository, "tiny")
    state = supervisor.serve_detached(repository, FREE)
    command = [sys.executable, "-m", "resx", "bench", "tiny", f"--repository={repository.root}", "--duration", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert supervisor.running_server(repository) == state
