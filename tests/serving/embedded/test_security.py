"""What docs/security.md promises: who reaches the embedded server, and what of it.

The second user is `nobody`, in a child that first imports what it needs: it may not read this environment's files.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from resx.errors import MissingCapability, UsageError
from resx.repository.versions import Repository
from resx.serving.client.address import CONTROL_HEADER, PROTOCOLS, Address
from resx.serving.client.client import TritonClient
from resx.serving.embedded import server_ports
from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.patches import hidden_arguments, region_modes
from resx.serving.embedded.server_ports import Ports
from resx.serving.embedded.triton_process import SHARED_MEMORY, shared_memory_prefix
from resx.serving.running import server_state as states
from resx.serving.running import state_folders
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

IMAGES = np.zeros((1, 3, 16, 16), np.uint8)
# With these set, tritonserver opens a port on 0.0.0.0 and none of its own, unless it is told otherwise.
VERTEX_AI = {"AIP_MODE": "PREDICTION", "AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/health"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

AS_NOBODY = """\
import encodings.idna, json, os, sys
from http.client import HTTPConnection
from pathlib import Path
import numpy as np
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException
facts = json.loads(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)

def http(key, method, path, body):
    connection = HTTPConnection("127.0.0.1", facts["http"], timeout=120)
    connection.request(method, path, body, {"resx-control-key": key} if key else {})
    return connection.getresponse().status

def grpc(key, call, *arguments):
    headers = {"triton-grpc-protocol-resx-control-key": key} if key else {}
    try:
        getattr(client, call)(*arguments, headers=headers)
    except InferenceServerException as error:
        return "restricted" if "restricted" in error.message() else error.message()
    return "answered"

def outcome(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"

client = grpc_client.InferenceServerClient(f"127.0.0.1:{facts['grpc']}")
image = grpc_client.InferInput("image", [1, 3, 16, 16], "UINT8")
image.set_data_from_numpy(np.zeros((1, 3, 16, 16), np.uint8))
found = {
    "infer": list(client.infer("tiny", [image]).as_numpy("logits").shape),
    "http": {f"{m} {p} {k}": http(k, m, p, b) for m, p, b in facts["http_calls"] for k in ("", "wrong")},
    "grpc": {f"{c} {k}": grpc(k, c, *a) for c, *a in facts["grpc_calls"] for k in ("", "wrong")},
    "read": {path: outcome(Path(path).read_bytes) for path in facts["files"]},
    "list": outcome(os.listdir, facts["folder"]),
    "signal": outcome(os.kill, facts["server"], 15),
    "seen": [path for path in facts["public"] if facts["key"].encode() in Path(path).read_bytes()],
}
print(json.dumps(found))
"""
HTTP_CALLS = [
    ("POST", "/v2/repository/models/tiny/load", "{}"),
    ("POST", "/v2/repository/models/tiny/unload", "{}"),
    ("POST", "/v2/repository/index", "{}"),
    ("GET", "/v2/systemsharedmemory/status", None),
    ("POST", "/v2/systemsharedmemory/region/x/register", '{"key": "/x", "offset": 0, "byte_size": 64}'),
    ("POST", "/v2/systemsharedmemory/unregister", "{}"),
    ("GET", "/v2/cudasharedmemory/status", None),
    ("POST", "/v2/cudasharedmemory/region/x/register", "{}"),
    ("POST", "/v2/cudasharedmemory/unregister", "{}"),
    ("GET", "/v2/trace/setting", None),
    ("POST", "/v2/trace/setting", '{"trace_file": "/tmp/resx-trace"}'),
    ("POST", "/v2/models/tiny/trace/setting", '{"trace_file": "/tmp/resx-trace"}'),
    ("GET", "/v2/logging", None),
    ("POST", "/v2/logging", '{"log_file": "/tmp/resx-log"}'),
]
GRPC_CALLS = [
    ("load_model", "tiny"),
    ("unload_model", "tiny"),
    ("get_model_repository_index",),
    ("get_system_shared_memory_status",),
    ("register_system_shared_memory", "x", "/x", 64),
    ("unregister_system_shared_memory",),
    ("get_cuda_shared_memory_status",),
    ("register_cuda_shared_memory", "x", "AAAA", 0, 64),
    ("unregister_cuda_shared_memory",),
    ("get_trace_settings",),
    ("update_trace_settings", "tiny", {"trace_file": "/tmp/resx-trace"}),
    ("get_log_settings",),
    ("update_log_settings", {"log_file": "/tmp/resx-log"}),
]


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A server whose state folder lies where every user can go, so that its own modes are what closes it."""
    if reason := triton_installation.missing_for_install():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="resx-security-"))
    folder.chmod(0o755)
    repository = Repository(folder / "model_repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESX_STATE", str(folder / "state"))
        for name, value in VERTEX_AI.items():
            patch.setenv(name, value)
        patch.setenv("AIP_HTTP_PORT", str(Ports(http=0, grpc=0, metrics=0).resolved().http))
        previous = os.umask(0o000)  # the worst that a user may have set
        try:
            publish_tiny(repository, "tiny")
            serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
        finally:
            os.umask(previous)
        yield RunningTriton(repository=repository)
        stop(repository)
    shutil.rmtree(folder)


def listening(pid: int) -> list[str]:
    """Return the local addresses, in the kernel's hexadecimal, on which a process accepts connections."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]


@pytest.mark.triton
def test_the_server_has_three_ports_all_on_loopback_whatever_the_environment_says(open_server: RunningTriton) -> None:
    state = open_server.state
    hosts, ports = zip(*(address.split(":") for address in listening(state.server_pid)), strict=True)
    assert {int(port, 16) for port in ports} == {state.http_port, state.grpc_port, state.metrics_port}
    assert len(hosts) == 3
    assert set(hosts) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, as IPv4 and inside IPv6


def test_a_wish_to_listen_elsewhere_is_refused_and_told_how(resx: Callable[..., Finished]) -> None:
    done = resx("serve", "--host=0.0.0.0")
    assert done.code == 2
    for word in ("--host 0.0.0.0:", "127.0.0.1", "container", "TLS proxy", "docs/security.md"):
        assert word in done.err


@pytest.mark.parametrize("host", ["::", "192.168.1.2", "myhost", "127.0.0.1.example.org", ""])
def test_nothing_but_loopback_is_taken_for_it(host: str) -> None:
    server_ports.require_loopback("localhost")
    with pytest.raises(UsageError, match="listens on 127.0.0.1 only"):
        server_ports.require_loopback(host)


@pytest.fixture(scope="module")
def as_nobody(open_server: RunningTriton) -> dict[str, object]:
    """What another user of the machine gets from the server."""
    state = open_server.state
    folder = Path(state.log).parent
    prefix = shared_memory_prefix(state.pid, state.http_port)
    regions = [str(path) for path in SHARED_MEMORY.glob(f"{prefix}*")]
    assert regions, "the server has no shared memory"
    files = [str(path) for path in folder.rglob("*") if path.is_file()]
    assert {Path(path).name for path in files} >= {states.KEY, states.STATE, states.LOG, states.OWN_LOG}
    processes = [state.pid, state.server_pid]
    facts = {
        "http": state.http_port, "grpc": state.grpc_port, "server": state.server_pid, "folder": str(folder),
        "files": [*files, *regions, *(f"/proc/{pid}/environ" for pid in processes)],
        "http_calls": HTTP_CALLS, "grpc_calls": GRPC_CALLS,
        "key": (folder / states.KEY).read_text(), "public": [f"/proc/{pid}/cmdline" for pid in processes],
    }  # fmt: skip
    command = [sys.executable, "-c", AS_NOBODY, json.dumps(facts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.triton
@needs_root
def test_another_user_may_ask_for_predictions_and_control_nothing(
    open_server: RunningTriton, as_nobody: dict[str, dict[str, object]]
) -> None:
    assert as_nobody["infer"] == [1, 10]
    assert len(as_nobody["http"]) == 2 * len(HTTP_CALLS)
    assert {call: status for call, status in as_nobody["http"].items() if status != 403} == {}
    assert len(as_nobody["grpc"]) == 2 * len(GRPC_CALLS)
    assert {call: answer for call, answer in as_nobody["grpc"].items() if answer != "restricted"} == {}
    assert as_nobody["signal"] == "PermissionError"
    with open_server.client() as client:
        assert client.model_versions() == {"tiny": [1]}


@pytest.mark.triton
@needs_root
def test_another_user_does_not_find_the_key_in_the_process_list(as_nobody: dict[str, object]) -> None:
    """Triton 2.51 takes it as an argument; what stands in its place opens nothing."""
    assert as_nobody["seen"] == []


@pytest.mark.triton
@needs_root
def test_another_user_reads_neither_state_nor_logs_nor_key_nor_what_passes_through(
    as_nobody: dict[str, dict[str, object]],
) -> None:
    assert as_nobody["list"] == "PermissionError"
    assert {path: what for path, what in as_nobody["read"].items() if what != "PermissionError"} == {}


@pytest.mark.triton
def test_what_the_process_list_shows_in_the_keys_place_opens_nothing(open_server: RunningTriton) -> None:
    words = Path(f"/proc/{open_server.state.server_pid}/cmdline").read_text().split("\0")
    shown = {word.rpartition("=")[2] for word in words if f"{CONTROL_HEADER}=" in word}
    assert len(shown) == 2
    for protocol in PROTOCOLS:
        for key in shown:
            host_port = open_server.state.address(protocol).host_port
            with (
                TritonClient(Address(host_port=host_port, protocol=protocol, control_key=key)) as client,
                pytest.raises(MissingCapability, match="RESX_CONTROL_KEY"),
            ):
                client.load("tiny")


def turned(code: str, *, wait_for: str = "") -> tuple[bool, list[str], str]:
    """Return whether it was early enough, what the process list showed, and what the program was told."""
    arguments = [sys.executable, "-S", "-c", code, "--key=shown"]
    environment = os.environ | {"HIDDEN": "--key=true"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        process.stdout.read(len(wait_for))
        try:
            early = hidden_arguments.turn(process.pid, len(arguments), {"--key=": "HIDDEN"})
        except OSError as error:
            process.kill()
            pytest.skip(f"a child's memory cannot be written here: {error}")
        shown = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        told, _ = process.communicate(timeout=120)
    return early, shown, told


def test_a_program_is_told_one_argument_and_the_process_list_shows_another() -> None:
    """Python is linked in a few milliseconds, tritonserver in forty: on a busy machine the first tries may be late."""
    for _ in range(50):
        early, shown, told = turned("import sys, time; time.sleep(0.2); print(sys.argv[1])")
        assert early
        assert shown[4] == "--key=shown"
        if told == "--key=true\n":
            return
    pytest.fail("the program was always told what the process list shows")


def test_a_program_that_has_begun_is_known_to_be_lost() -> None:
    code = "import threading, time; threading.Thread(target=time.sleep, args=(1,)).start(); print('go', flush=True)"
    assert turned(code, wait_for="go\n")[0] is False


@pytest.mark.triton
def test_state_logs_key_and_shared_memory_are_for_their_owner_alone(open_server: RunningTriton) -> None:
    state = open_server.state
    folder = Path(state.log).parent
    prefix = shared_memory_prefix(state.pid, state.http_port)
    with open_server.client() as client:  # a model that comes later makes its own regions
        publish_tiny(open_server.repository, "later")
        client.load("later")
        paths = [folder, *folder.rglob("*"), *SHARED_MEMORY.glob(f"{prefix}*")]
        client.unload("later")
    assert len(paths) > 6
    # A link is what Triton has for a path to the repository, which is not of this folder.
    there = [path for path in paths if path.exists() and not path.is_symlink()]
    assert {str(path): oct(path.stat().st_mode) for path in there if path.stat().st_mode & 0o077} == {}


def test_only_the_pinned_files_are_touched_and_only_their_modes(tmp_path: Path) -> None:
    opened = bytes.fromhex("00baa4010000bec2000000e800 0f1f00bea4010000e8 a4010000")
    for name in region_modes.FILES:
        (tmp_path / name).write_bytes(opened)
    region_modes.close_regions(tmp_path)
    for name in region_modes.FILES:
        closed = (tmp_path / name).read_bytes()
        assert closed == bytes.fromhex("00ba80010000bec2000000e800 0f1f00be80010000e8 a4010000")
    with pytest.raises(MissingCapability, match="from a different wheel"):
        region_modes.close_regions(tmp_path)


@needs_root
def test_a_state_folder_that_another_user_laid_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the folder could replace the key, or read what is written there."""
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "state"))
    repository = Repository(tmp_path / "model_repository")
    folder = state_folders.make_folder(repository)
    os.chown(folder, 65534, 65534)
    with pytest.raises(UsageError, match="belongs to another user; set RESX_STATE"):
        state_folders.make_folder(repository)


def test_the_state_folder_is_closed_again_if_it_was_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_STATE", str(tmp_path / "state"))
    repository = Repository(tmp_path / "model_repository")
    state_folders.make_folder(repository).chmod(0o777)
    assert stat.S_IMODE(state_folders.make_folder(repository).stat().st_mode) == 0o700


@pytest.mark.triton
def test_a_crash_leaves_no_core_file_with_the_key_in_it(open_server: RunningTriton) -> None:
    limits = Path(f"/proc/{open_server.state.server_pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


def wheel_with(path: Path, name: str, *, link: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
        archive.writestr(entry, "/etc/passwd" if link else "content")
    return path


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("pytriton/tritonserver/bin/../../../escaped", False),
        ("pytriton/tritonserver/bin//tmp/resx-escaped", False),
        ("pytriton/tritonserver/bin/tritonserver", True),
    ],
)
def test_an_archive_entry_that_leads_elsewhere_is_refused(tmp_path: Path, name: str, link: bool) -> None:
    """The wheel's SHA-256 is checked before; this holds without it."""
    wheel = wheel_with(tmp_path / "some.whl", name, link=link)
    with pytest.raises(MissingCapability, match="points outside the archive"):
        triton_installation._unpack(wheel, tmp_path / "deep" / "root")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["some.whl"]
