"""`resx serve --server-dir`: another Triton's files as the server, judged before they run and never changed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from resx.errors import MissingCapability, ResxError, UsageError
from resx.gpus import Gpus
from resx.repository.image_endpoint import PREPROCESS
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.embedded import server_folder, triton_process
from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.installation.native_backend import missing_for_native, onnxruntime_library
from resx.serving.embedded.installation.python_stub import PYTHONS, STUB, THIS, python_of
from resx.serving.embedded.patches.request_limits import REQUEST_BYTES
from resx.serving.embedded.python_models import require_none_of_others
from resx.serving.embedded.server_backends import missing_python, require_runnable, runs_this_python
from resx.serving.embedded.server_folder import (
    BACKENDS,
    LIBRARIES,
    PROGRAM,
    choose_folder_device,
    fitting,
    folder_environment,
    open_server_folder,
)
from resx.serving.embedded.server_ports import Ports
from resx.serving.running import server_state as states
from resx.serving.running import state_folders
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.server_dirs import copy_of, help_of, lay_out_script, lay_out_wheel
from tests.support.tiny_models import publish_tiny

FREE = Ports(http=0, grpc=0, metrics=0)
ANY_PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
USED = (
    "model-repository", "backend-directory", "model-control-mode", "load-model", "exit-on-error", "http-address",
    "grpc-address", "metrics-address", "allow-http", "allow-grpc", "allow-vertex-ai", "allow-sagemaker", "http-port",
    "grpc-port", "metrics-port", "metrics-config", "exit-timeout-secs", "cache-directory", "cache-config",
    "backend-config", "http-restricted-api", "grpc-restricted-protocol",
)  # fmt: skip
"""What resx starts a server with."""
NEWEST = (*USED, "http-max-input-size", "allow-client-shm", "repoagent-directory")


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's server as it came, laid out as in NVIDIA's container, in a folder with a space in its name."""
    if reason := triton_installation.missing_for_install():
        pytest.skip(reason)
    triton_installation.install()  # has the wheel fetched, if need be
    folder = tmp_path_factory.mktemp("another") / "a triton"
    return lay_out_wheel(folder, triton_installation.cache_folder("downloads") / triton_installation.WHEEL)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    repository.root.mkdir()
    yield repository
    detaching.stop(repository)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies there; but for what Python itself compiles, as its stub in Triton heeds no PYTHONDONTWRITEBYTECODE."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


@pytest.mark.triton
def test_another_tritons_folder_serves_deploys_and_comes_back_and_nothing_in_it_changes(
    wheel_folder: Path, repository: Repository, resx: Callable[..., Finished]
) -> None:
    publish_tiny(repository, "tiny")
    before = listing(wheel_folder)
    state = detaching.serve_detached(repository, FREE, [f"--server-dir={wheel_folder}"])
    assert (state.server_dir, state.server_version) == (str(wheel_folder), triton_installation.TRITON_VERSION)

    publish_tiny(repository, "tiny", seed=1)
    with TritonClient(state.address("grpc"), timeout_s=30) as client:
        assert deploy(client, repository, "tiny").version == 2, "the new version is tried on the same server"
    os.kill(state.server_pid, signal.SIGKILL)
    wait_until(lambda: (now := states.running_server(repository)) is not None and now.restarts == 1)
    again = states.running_server(repository)
    assert again is not None
    assert again.server_dir == str(wheel_folder)
    command = Path(f"/proc/{again.server_pid}/cmdline").read_text().split("\0")
    assert Path(command[0]).resolve() == wheel_folder / PROGRAM
    with TritonClient(again.address("grpc"), timeout_s=30) as client:
        assert client.model_versions() == {"tiny": [2]}
        assert client.infer("tiny", client.interface("tiny"), np.zeros((1, 3, 16, 16), np.uint8)).version == 2

    shown = resx("status", f"--repository={repository.root}")
    assert f"server of {wheel_folder}, without the guard on requests" in shown.out
    payload = resx("status", f"--repository={repository.root}", "--json").json
    assert (payload["server_dir"], payload["guarded"], payload["triton"]) == (
        str(wheel_folder),
        False,
        triton_installation.TRITON_VERSION,
    )
    assert listing(wheel_folder) == before


@pytest.mark.triton
def test_a_model_of_a_cpp_backend_is_served_and_an_image_endpoint_that_python_is_missing_for_is_named(
    wheel_folder: Path, repository: Repository, tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    if reason := missing_for_native():
        pytest.skip(reason)
    folder = copy_of(wheel_folder, tmp_path / "cpp")
    shutil.rmtree(folder / BACKENDS)
    native = triton_installation.install(native=True).backends
    shutil.copytree(native / "onnxruntime", folder / BACKENDS / "onnxruntime")
    (folder / PROGRAM).rename(folder / f"{PROGRAM}.real")
    (folder / PROGRAM).write_text(  # resx's own backend is told where onnxruntime lies; NVIDIA's knows
        f'#!/bin/sh\nexec "$0.real" "$@" --backend-config=onnxruntime,library={onnxruntime_library()}\n'
    )
    (folder / PROGRAM).chmod(0o755)
    publish_tiny(repository, "tiny", image_endpoint=True)
    where = f"--repository={repository.root}"

    started = resx("serve", where, "--detach", *ANY_PORTS, f"--server-dir={folder}")

    assert started.code == 0, started.err
    assert f"tiny{PREPROCESS} is not served: it needs Python inside the server: " in started.err
    assert f"has no {STUB}; copy it from the same image" in started.err
    state = states.running_server(repository)
    assert state is not None
    with TritonClient(state.address("grpc"), timeout_s=30) as client:
        assert client.model_versions() == {"tiny": [1]}
    done = resx("deploy", "tiny", where)
    assert done.code == 4
    assert f"tiny{PREPROCESS}: needs the backend python, and {folder / BACKENDS} has onnxruntime" in done.err
    assert "tiny itself is served" in done.err


@pytest.mark.triton
@pytest.mark.parametrize("own", [True, False], ids=["resx's own", "another's"])
def test_an_image_endpoint_that_fails_as_the_server_starts_leaves_its_model_served(
    own: bool, wheel_folder: Path, repository: Repository
) -> None:
    publish_tiny(repository, "tiny", image_endpoint=True)
    (repository.root / f"tiny{PREPROCESS}" / "1" / "model.py").write_text("import a_package_that_is_not_there\n")
    state = detaching.serve_detached(repository, FREE, [] if own else [f"--server-dir={wheel_folder}"])
    with TritonClient(state.address("grpc"), timeout_s=30) as client:
        assert client.model_versions() == {"tiny": [1]}
    assert "tiny itself is served, its image endpoint is not" in Path(state.log).read_text()


@pytest.mark.triton
@pytest.mark.parametrize("name", ["with space", "with:colon", "with$ORIGIN", "ümlaut"])
def test_a_folder_may_have_any_name_and_be_a_link_or_a_relative_path(
    name: str, wheel_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(wheel_folder, tmp_path / name)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for given in (folder, tmp_path / "link", Path(name), Path(f"../{tmp_path.name}/{name}")):
        found = open_server_folder(given, "cpu")
        assert found.server == folder / PROGRAM
        assert {"http-restricted-api", "model-repository"} <= found.flags
        assert found.version == triton_installation.TRITON_VERSION


@pytest.mark.triton
def test_python_inside_is_that_of_the_folders_stub(wheel_folder: Path, repository: Repository, tmp_path: Path) -> None:
    assert python_of(wheel_folder / BACKENDS) == THIS
    assert runs_this_python(str(wheel_folder))
    assert missing_python(str(wheel_folder)) is None
    other = next(version for version in PYTHONS if version != THIS)
    folder = copy_of(wheel_folder, tmp_path / "other")
    stub = folder / BACKENDS / "python" / STUB
    stub.unlink()
    with zipfile.ZipFile(triton_installation.cache_folder("downloads") / triton_installation.WHEEL) as archive:
        stub.write_bytes(archive.read(f"pytriton/tritonserver/python_backend_stubs/{other[0]}.{other[1]}/{STUB}"))
    stub.chmod(0o755)
    assert python_of(folder / BACKENDS) == other
    assert not runs_this_python(str(folder))
    opened = open_server_folder(folder, "cpu")
    assert folder_environment(opened)["PATH"] == os.environ["PATH"], "this environment is not that Python's"
    libraries = folder_environment(opened)["LD_LIBRARY_PATH"].split(":")
    assert libraries[:2] == [str(folder / LIBRARIES), str(folder / BACKENDS / "python")]
    if reason := missing_python(str(folder)):
        assert f"libpython{other[0]}.{other[1]}.so.1.0, not found on this machine" in reason
        publish_tiny(repository, "tiny")
        with pytest.raises(MissingCapability, match="tiny: needs Python inside the server: .*libpython"):
            require_runnable(repository.root / "tiny", str(folder))


@pytest.mark.triton
def test_another_ones_python_model_is_refused_where_this_numpy_would_corrupt_it(
    wheel_folder: Path, tmp_path: Path
) -> None:
    if np.__version__.startswith("1."):
        pytest.skip("numpy 1 corrupts nothing")
    model = tmp_path / "theirs"
    model.mkdir()
    (model / "config.pbtxt").write_text('name: "theirs"\nbackend: "python"\n')
    with pytest.raises(MissingCapability, match=f"the Python stub of {wheel_folder} corrupt its tensors"):
        require_none_of_others(tmp_path, "theirs", str(wheel_folder))
    require_none_of_others(tmp_path, "theirs", str(lay_out_script(tmp_path / "no_python", "true")))


def script(flags: tuple[str, ...], rest: str = "exit 1", *, more: str = "") -> str:
    return f"if [ \"$1\" = --help ]; then {more} cat <<'END' >&2\n{help_of(*flags)}END\nexit 1; fi\n{rest}"


def arguments_given_to(
    flags: tuple[str, ...], tmp_path: Path, repository: Repository, resx: Callable[..., Finished]
) -> tuple[Finished, list[str]]:
    """Return how `resx serve` ended, and what it started a server with whose help lists these flags."""
    record = tmp_path / "arguments"
    rest = f'printf "%s\\n" "$@" > {record}; echo "error: creating server: a reason"; exit 1'
    folder = lay_out_script(tmp_path / "triton", script(flags, rest))
    done = resx("serve", f"--repository={repository.root}", *ANY_PORTS, f"--server-dir={folder}")
    return done, record.read_text().splitlines() if record.is_file() else []


def test_a_newer_server_is_told_its_limits(
    tmp_path: Path, repository: Repository, resx: Callable[..., Finished]
) -> None:
    done, arguments = arguments_given_to(NEWEST, tmp_path, repository, resx)
    assert (done.code, "tritonserver ended with code 1: error: creating server: a reason" in done.err) == (1, True)
    assert f"--http-max-input-size={REQUEST_BYTES}" in arguments
    assert "--allow-client-shm=false" in arguments
    assert next(one for one in arguments if "repoagent" in one).endswith("triton/repoagents"), "not /opt/tritonserver's"
    assert [one for one in arguments if "address" in one] == [
        f"--{service}-address=127.0.0.1" for service in ("http", "grpc", "metrics")
    ]
    keys = [one for one in arguments if "restricted" in one]
    key = (state_folders.folder_of(repository) / states.KEY).read_text().strip()
    assert [one.endswith(f"={key}") for one in keys] == [True, True]
    assert not [one for one in arguments if "cache" in one], "it has no library for a cache"


@pytest.mark.parametrize("flag", ["allow-vertex-ai", "allow-sagemaker", "metrics-config"])
def test_a_server_without_a_flag_that_is_no_lock_does_not_get_it(
    flag: str, tmp_path: Path, repository: Repository, resx: Callable[..., Finished]
) -> None:
    known = tuple(one for one in USED if one != flag)
    _, arguments = arguments_given_to(known, tmp_path, repository, resx)
    assert arguments
    assert {one.removeprefix("--").partition("=")[0] for one in arguments} <= set(known)


@pytest.mark.parametrize("flag", ["http-restricted-api", "metrics-address", "model-control-mode", "backend-config"])
def test_a_server_without_a_lock_is_not_started(
    flag: str, tmp_path: Path, repository: Repository, resx: Callable[..., Finished]
) -> None:
    done, arguments = arguments_given_to(tuple(one for one in USED if one != flag), tmp_path, repository, resx)
    assert (done.code, arguments) == (4, [])
    assert f"{PROGRAM}: has no --{flag}, which resx needs" in done.err
    assert (done.err.count("error:"), "Traceback" in done.err) == (1, False)


def test_what_resx_starts_is_what_these_tests_know(tmp_path: Path) -> None:
    folder = open_server_folder(lay_out_script(tmp_path / "triton", script(USED)), "cpu")
    assert fitting(["it", *(f"--{flag}=1" for flag in USED if "cache" not in flag)], folder)[1:]
    with pytest.raises(MissingCapability, match="has no --unheard-of"):
        fitting(["it", "--unheard-of=1"], folder)


@pytest.mark.parametrize(
    ("help_", "flags"),
    [
        ("echo '  --http-port <integer>'", {"http-port"}),
        ("echo '  --http-port <integer>' >&2; exit 1", {"http-port"}),
        ("printf '  --a-flag\\n\\t--in-a-text\\nUsage: tritonserver [--in-the-usage]\\n'; exit 77", {"a-flag"}),
    ],
)
def test_help_is_read_from_either_stream_whatever_the_code(help_: str, flags: set[str], tmp_path: Path) -> None:
    assert open_server_folder(lay_out_script(tmp_path / "triton", help_), "cpu").flags == flags


@pytest.mark.parametrize(
    ("help_", "reason"),
    [
        ("exit 0", "--help ended with code 0: it printed nothing"),
        ("echo error: no space left >&2; exit 3", "--help ended with code 3: error: no space left"),
        ("kill -ILL $$", "--help was ended by SIGILL: it printed nothing"),
    ],
)
def test_a_help_without_flags_is_no_tritons(help_: str, reason: str, tmp_path: Path) -> None:
    folder = lay_out_script(tmp_path / "triton", help_)
    with pytest.raises(MissingCapability, match=f"triton/{PROGRAM}: {reason}"):
        open_server_folder(folder, "cpu")


def test_a_help_that_hangs_is_ended_with_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_folder, "HELP_S", 0.5)
    pid = tmp_path / "pid"
    folder = lay_out_script(tmp_path / "triton", f"sleep 300 & echo $! > {pid}; wait")
    with pytest.raises(MissingCapability, match="--help did not finish within 0.5 s"):
        open_server_folder(folder, "cpu")
    child = int(pid.read_text())
    wait_until(lambda: triton_process.stat_fields(child)[:1] in ([], ["Z"]))


def without(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def replaced_by(content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / PROGRAM).write_bytes(content)

    return change


ARM = b"\x7fELF\2\1\1" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little") + bytes(44)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (without(PROGRAM), UsageError, f"has no {PROGRAM}; it needs {PROGRAM} and {BACKENDS}/"),
        (without(BACKENDS), UsageError, f"has no {BACKENDS}/, so it cannot serve any model"),
        (lambda folder: (folder / PROGRAM).chmod(0o644), UsageError, f"{PROGRAM}: is not executable; chmod \\+x"),
        (replaced_by(ARM), MissingCapability, f"{PROGRAM}: is not a program for this machine"),
        (replaced_by(b"no program\n"), MissingCapability, f"{PROGRAM}: is not a program for this machine"),
        (replaced_by(b"#!/no/such/shell\n"), MissingCapability, "its program interpreter is missing on this system"),
        (lambda folder: folder.chmod(0o777), UsageError, "other users can write it .mode 0777., .*chmod go-w"),
        (lambda folder: (folder / PROGRAM).chmod(0o757), UsageError, f"{PROGRAM}: other users can write it"),
        (lambda folder: (folder / BACKENDS / "onnxruntime").chmod(0o777), UsageError, "other users can write it"),
    ],
)
def test_a_folder_that_cannot_be_the_server_is_one_line_and_is_not_run(
    change: Callable[[Path], None], kind: type[ResxError], reason: str, tmp_path: Path
) -> None:
    folder = lay_out_script(tmp_path / "triton", script(USED, more=f"touch {tmp_path / 'ran'};"))
    folder.chmod(0o755)
    change(folder)
    with pytest.raises(kind, match=reason):
        open_server_folder(folder, "cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("content", "code"), [(b"", 2), (ARM, 4)], ids=["no program", "of another machine"])
@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["foreground", "detached"])
def test_the_command_ends_with_one_line_and_its_code(
    content: bytes, code: int, detach: list[str], tmp_path: Path, repository: Repository, resx: Callable[..., Finished]
) -> None:
    folder = lay_out_script(tmp_path / "triton", script(USED))
    (folder / PROGRAM).write_bytes(content)
    if not content:
        (folder / PROGRAM).chmod(0o644)
    done = resx("serve", f"--repository={repository.root}", *ANY_PORTS, *detach, f"--server-dir={folder}")
    assert (done.code, done.err.count("error:"), "Traceback" in done.err) == (code, 1, False), done.err
    assert str(folder / PROGRAM) in done.err


def test_a_link_out_of_the_folder_is_followed_and_what_it_leads_to_is_judged_alike(tmp_path: Path) -> None:
    folder = lay_out_script(tmp_path / "triton", script(USED))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "libnvinfer.so").write_bytes(b"")
    (folder / LIBRARIES).symlink_to(elsewhere)
    (folder / "to_nothing").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    assert open_server_folder(folder, "cpu").flags
    (elsewhere / "libnvinfer.so").chmod(0o666)
    with pytest.raises(UsageError, match="elsewhere/libnvinfer.so: other users can write it"):
        open_server_folder(folder, "cpu")
    (elsewhere / "libnvinfer.so").chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="other users can write it"):
        open_server_folder(folder, "cpu")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_in_it_is_refused(tmp_path: Path) -> None:
    folder = lay_out_script(tmp_path / "triton", script(USED))
    os.chown(folder / BACKENDS / "onnxruntime" / "libtriton_onnxruntime.so", 12345, 12345)
    with pytest.raises(UsageError, match="belongs to another user; give --server-dir a copy of your own"):
        open_server_folder(folder, "cpu")


@pytest.mark.parametrize(
    ("given", "reason"),
    [("nowhere", "no such folder"), ("file", "is no folder"), ("image", "has no bin/tritonserver; give .*opt/triton")],
)
def test_what_is_no_servers_folder_is_told_what_is(given: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lay_out_script(tmp_path / "image" / "opt" / "tritonserver", script(USED))
    with pytest.raises(UsageError, match=f"--server-dir .*{given}: {reason}"):
        open_server_folder(tmp_path / given, "cpu")


@pytest.mark.triton
def test_missing_libraries_are_all_named_before_anything_runs(wheel_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(wheel_folder, tmp_path / "copy")
    gone = [next((folder / LIBRARIES).glob(f"{name}*")) for name in ("libcudart", "libb64")]
    for library in gone:
        library.unlink()
    with pytest.raises(MissingCapability, match="not found on this machine; put missing libraries of the") as refused:
        open_server_folder(folder, "cpu")
    assert all(library.name in str(refused.value) for library in gone)


def test_the_users_own_library_folders_are_kept_and_pythons_cuda_is_for_who_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, pip = tmp_path / "own", tmp_path / "nvidia" / "cu13" / "lib"
    for folder in (own, pip):
        folder.mkdir(parents=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{own}::{tmp_path / 'nowhere'}")
    monkeypatch.setattr(server_folder, "cuda_folders", lambda: [pip])
    found = open_server_folder(lay_out_script(tmp_path / "triton", script(USED)), "cpu")
    without = folder_environment(found)["LD_LIBRARY_PATH"].split(":")
    assert without == [
        str(found.backends / "onnxruntime"),
        *(str(one) for one in server_folder._CUDA if one.is_dir()),
        str(own),
    ]
    assert folder_environment(dataclasses.replace(found, with_cuda_of_python=True))["LD_LIBRARY_PATH"].split(":") == [
        *without,
        str(pip),
    ]


@pytest.mark.triton
def test_a_server_of_a_newer_system_is_told_as_that(
    wheel_folder: Path, tmp_path: Path, repository: Repository, resx: Callable[..., Finished]
) -> None:
    folder = copy_of(wheel_folder, tmp_path / "newer")
    content = (folder / PROGRAM).read_bytes()
    (folder / PROGRAM).unlink()  # a hard link
    (folder / PROGRAM).write_bytes(content.replace(b"\0GLIBC_2.34\0", b"\0GLIBC_2.99\0"))
    (folder / PROGRAM).chmod(0o755)
    done = resx("serve", f"--repository={repository.root}", *ANY_PORTS, f"--server-dir={folder}")
    assert done.code == 4
    assert "was built for a newer system: it needs GLIBC_2.99, and this one has glibc " in done.err


def test_the_device_of_another_server_is_what_the_driver_shows() -> None:
    none = Gpus(count=0, missing="no NVIDIA driver is installed")
    wishes = (("auto", none), ("auto", Gpus(count=1)), ("gpu", Gpus(count=2)), ("cpu", Gpus(count=1)))
    devices = [choose_folder_device(wish, gpus=lambda found=found: found) for wish, found in wishes]  # type: ignore[misc]
    assert devices == ["cpu", "gpu", "gpu", "cpu"]
    with pytest.raises(MissingCapability, match="--device gpu: no NVIDIA driver is installed; use --device cpu"):
        choose_folder_device("gpu", gpus=lambda: none)


@pytest.mark.parametrize("word", ["--native", "--isolated"])
def test_how_resxs_own_server_computes_is_not_asked_of_another(
    word: str, repository: Repository, resx: Callable[..., Finished]
) -> None:
    done = resx("serve", f"--repository={repository.root}", word, "--server-dir=anywhere")
    assert done.code == 2
    assert "remove them with --server-dir" in done.err


def test_a_model_whose_backend_the_folder_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    folder = lay_out_script(tmp_path / "triton", script(USED))
    for name, text in (
        ("plan", 'backend: "tensorrt"'),
        ("old", 'platform: "tensorrt_plan"'),
        ("net", 'backend: "onnxruntime"'),
        ("both", 'platform: "ensemble"'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(text)
    for name in ("plan", "old"):
        with pytest.raises(
            MissingCapability, match=f"{name}: needs the backend tensorrt, and .* has onnxruntime; copy"
        ):
            require_runnable(tmp_path / name, str(folder))
    for name in ("net", "both"):
        require_runnable(tmp_path / name, str(folder))


def test_a_server_that_was_exchanged_is_looked_at_anew_when_it_starts_again(tmp_path: Path) -> None:
    old = lay_out_script(tmp_path / "old", script(USED))
    new = lay_out_script(tmp_path / "new", script(NEWEST))
    link = tmp_path / "current"
    link.symlink_to(old)
    found = open_server_folder(link, "cpu")
    link.unlink()
    link.symlink_to(new)
    again = server_folder.open_again(found)
    assert isinstance(again, server_folder.ServerFolder)
    assert (again.given, again.server, again.flags - found.flags) == (
        link,
        new / PROGRAM,
        set(NEWEST) - set(USED),
    )
