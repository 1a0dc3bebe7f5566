"""What the native backend has to itself: how it is compiled, and what becomes of a server that has it.

What it answers is in test_backend.py, beside the Python backend.
"""

import ctypes
import os
import re
import signal
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest

from resx.bench.results.result import environment
from resx.errors import MissingCapability
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.installation import native_backend
from resx.serving.embedded.server_ports import Ports
from resx.serving.embedded.triton_process import STUB
from resx.serving.running.server_state import ServerState, running_server
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.running_triton import FREE, current, wait_until
from tests.support.tiny_models import publish_tiny


@pytest.fixture
def repository(tmp_path: Path, state_folder: Path) -> Iterator[Repository]:
    """A repository with `tiny`, whose server, if one runs, is stopped."""
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    yield repository
    if running_server(repository):
        detaching.stop(repository)


def test_without_a_compiler_the_message_says_what_to_install(
    repository: Repository, resx: Callable[..., Finished]
) -> None:
    free = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
    done = resx("serve", f"--repository={repository.root}", *free, "--native", env={"CXX": "no-such-compiler"})
    assert done.code == 4
    assert done.out == ""
    assert done.err.splitlines()[-1] == (
        "error: --native needs a C++ compiler to build its backend; install g++ or set CXX; `resx serve --isolated` "
        "needs none"
    )


@pytest.mark.triton
@pytest.mark.parametrize(("asked", "native"), [("--isolated", False), ("--native", True)])
def test_what_is_asked_for_by_name_is_what_is_served(repository: Repository, asked: str, native: bool) -> None:
    state = detaching.serve_detached(repository, Ports(http=0, grpc=0, metrics=0), [asked])
    assert state.native == native


def test_a_compiler_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\necho 'a.cc: In function f:' >&2\necho 'a.cc:1:2: error: no such thing' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    target = tmp_path / "backend"
    with pytest.raises(MissingCapability, match=r"\(a.cc:1:2: error: no such thing\); `resx serve --isolated`"):
        native_backend.put_native_backend(target, lambda _step: None)
    assert list(target.iterdir()) == []


def test_a_wheel_without_the_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_backend, "onnxruntime_library", lambda: None)
    monkeypatch.setenv("CXX", "true")
    assert "lacks libonnxruntime.so" in str(native_backend.missing_for_native())


def test_it_is_compiled_once_and_again_when_a_source_changes(tmp_path: Path) -> None:
    if reason := native_backend.missing_for_native():
        pytest.skip(reason)
    steps: list[str] = []
    native_backend.put_native_backend(tmp_path, steps.append)
    first = (tmp_path / native_backend.LIBRARY).read_bytes()
    native_backend.put_native_backend(tmp_path, steps.append)
    assert len(steps) == 1
    (tmp_path / "built-of.sha256").write_text("of another version")
    native_backend.put_native_backend(tmp_path, steps.append)
    assert len(steps) == 2
    assert (tmp_path / native_backend.LIBRARY).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built-of.sha256", native_backend.LIBRARY]


@pytest.mark.triton
def test_a_native_server_has_no_python_process_and_comes_back_when_it_is_killed(repository: Repository) -> None:
    if reason := native_backend.missing_for_native():
        pytest.skip(reason)
    state = detaching.serve_detached(repository, FREE, ["--native"])
    assert not any(STUB in " ".join(child.cmdline()) for child in psutil.Process(state.server_pid).children(True))
    assert state.native
    assert environment(state.address("http"), "", {}).server_kind == "native"
    before = answer(state)

    os.kill(state.server_pid, signal.SIGSEGV)

    wait_until(lambda: current(repository).restarts == 1 and current(repository).phase == "serving", "it is back")
    after = current(repository)
    assert after.server_pid != state.server_pid
    assert np.array_equal(answer(after), before)
    assert not any(STUB in " ".join(child.cmdline()) for child in psutil.Process(after.server_pid).children(True))


def answer(state: ServerState) -> np.ndarray:
    with TritonClient(state.address("grpc"), timeout_s=30) as client:
        outputs = client.infer("tiny", client.interface("tiny"), np.full((1, 3, 16, 16), 7, np.uint8))
        return outputs.logits


def test_the_gpus_functions_stand_where_the_backend_looks_for_them() -> None:
    """A function's place is all that the backend knows of it; one that is not built in says what it is."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime is the package for NVIDIA GPUs")
    header = (resources.files("resx.serving.embedded") / "backends/onnxruntime/native/ort.h").read_text()
    places = {name: int(place) for name, place in re.findall(r"bind\((\w+), (\d+)\)", header)}
    library = ctypes.CDLL(str(native_backend.onnxruntime_library()))
    library.OrtGetApiBase.restype = ctypes.POINTER(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32))
    table = ctypes.cast(library.OrtGetApiBase().contents(14), ctypes.POINTER(ctypes.c_void_p))
    say = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(table[places["GetErrorMessage"]])
    made = ctypes.c_void_p()
    for kind, provider in (("Cuda", "CUDA"), ("TensorRt", "TensorRT")):
        for function, arguments in (
            (f"Create{kind}Options", (ctypes.byref(made),)),
            (f"Update{kind}Options", (ctypes.byref(made), None, None, 0)),
        ):
            types = [ctypes.c_void_p] * len(arguments)
            failed = ctypes.CFUNCTYPE(ctypes.c_void_p, *types)(table[places[function]])(*arguments)
            assert say(failed) == f"{provider} execution provider is not enabled in this build.".encode(), function
