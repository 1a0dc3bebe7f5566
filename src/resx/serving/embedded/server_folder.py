"""Another Triton's files as the server: `resx serve --server-dir DIR`, without a Docker engine.

    DIR/bin/tritonserver   DIR/backends/   DIR/lib/   DIR/caches/   DIR/TRITON_VERSION

as NVIDIA's container has them in /opt/tritonserver. Nothing is written there, and nothing that resx changes in its own
server is changed in this one: those changes are for one known binary. What `--help` lists decides which flags the
server is given, as an unknown one ends it. Its backends are its own; resx adds none, as its Python ones were made for
the Python and the stub of the embedded server.

Source: build.py and src/command_line_parser.cc of github.com/triton-inference-server/server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resx.errors import MissingCapability, UsageError
from resx.files.mounts import file_system_of, refuses_programs
from resx.files.private_folders import require_trusted_tree
from resx.gpus import Device, Gpus, Wish, find_gpus
from resx.machine import lacks_open_files
from resx.serving.embedded.devices import cuda_folders
from resx.serving.embedded.installation.dynamic_loader import linked, run
from resx.serving.embedded.installation.python_stub import THIS, libpython_folder, python_of
from resx.serving.embedded.installation.triton_installation import OPEN_FILES, Installation, process_environment
from resx.serving.embedded.patches.request_limits import REQUEST_BYTES
from resx.serving.embedded.plain_paths import is_plain, plain_installation
from resx.serving.running.processes import ending_of
from resx.text import one_line

PROGRAM, BACKENDS, LIBRARIES, VERSION_FILE = "bin/tritonserver", "backends", "lib", "TRITON_VERSION"
CACHES, AGENTS = "caches", "repoagents"
HELP_S = 60.0
"""A server for GPUs loads gigabytes of libraries before it prints its help."""
_OPTION = "--server-dir"
_REMEDY = f"give {_OPTION} a copy of your own"
_LAYOUT = f"it needs {PROGRAM} and {BACKENDS}/, as NVIDIA's container has them in /opt/tritonserver"
_FLAG = re.compile(r"^ {0,8}--([a-z][a-z0-9-]*)", re.MULTILINE)
_VERSION = re.compile(r"\d+(\.\d+)+[a-z0-9.+-]*")
_MAY_LACK = frozenset(
    {
        "allow-vertex-ai",
        "allow-sagemaker",  # then it has no such service
        "metrics-config",
        "cache-directory",
        "cache-config",
        "exit-on-error",
    }
)
"""What a server may do without; the other flags are what keeps it on loopback, locked, and found again."""
_LIMITS = (f"--http-max-input-size={REQUEST_BYTES}", "--allow-client-shm=false")
"""For servers that know them, from 25.06 and 26.04 on: their defaults, whatever those will be."""
_LOCAL_CACHE = "local/libtritoncache_local.so"
_CUDA = (Path("/usr/local/cuda/lib64"), Path("/usr/local/nvidia/lib64"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFolder(Installation):
    """Another Triton's files, looked at as the server was started."""

    given: Path
    """As the user named the folder, absolute: if it is a link, each start follows it anew."""
    patched: bool = False
    flags: frozenset[str]
    version: str
    """As its TRITON_VERSION says; empty where there is none."""
    with_cuda_of_python: bool = False
    """Whether it needs libraries that, if at all, NVIDIA's packages of this Python have.

    Elsewhere they are left out: those of another CUDA may have the same names, as cuDNN 9 has.
    """

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.given / PROGRAM}" + (f" (Triton {self.version})" if self.version else "")


def require_server_folder(given: str | Path) -> tuple[Path, Path]:
    """Return a server's folder as it was named, absolute, and without links, after who can write it was looked at.

    Raises:
        UsageError: it is no such folder, or somebody else can have written what is in it.
        MissingCapability: programs may not be run from there.
    """
    path = _absolute(given)
    root = _trusted(path)
    _require_layout(path, root)
    return path, root


def open_server_folder(given: str | Path, wish: Wish) -> ServerFolder:
    """Return the server of a folder, after its files, its libraries and its `--help` were looked at.

    Raises:
        UsageError: it is no such folder, or somebody else can have written what is in it.
        MissingCapability: its server cannot run on this machine, or not on the device that is wished for.
    """
    path, root = require_server_folder(given)
    if reason := lacks_open_files(OPEN_FILES, "Triton"):
        raise MissingCapability(reason)
    found = _layout(path, root, choose_folder_device(wish))
    with _plain(found) as plain:
        if linked(plain.server, folder_environment(plain)).missing:
            found, plain = (replace(one, with_cuda_of_python=True) for one in (found, plain))
        environment = folder_environment(plain)
        if reason := linked(plain.server, environment).reason:
            raise MissingCapability(
                f"{found.title}: {reason}; put missing libraries of the same image into {path / LIBRARIES}, or use an "
                "image for a system like this one (docs/server_dir.md)"
            )
        return replace(found, flags=_flags_of(found, plain.server, environment))


def open_again(installation: Installation) -> Installation:
    """Return the server to start anew; another's files are looked at again, as they may have been replaced.

    Raises:
        UsageError: as `open_server_folder`.
        MissingCapability: as `open_server_folder`.
    """
    if not isinstance(installation, ServerFolder):
        return installation
    return open_server_folder(installation.given, installation.device)


def folder_of_server(installation: Installation) -> str:
    """Return the folder of another's server as the state names it, or nothing for resx's own."""
    return str(installation.given) if isinstance(installation, ServerFolder) else ""


def server_environment(installation: Installation) -> dict[str, str]:
    """Return the environment that a server and its Python processes need."""
    if isinstance(installation, ServerFolder):
        return folder_environment(installation)
    return process_environment(installation)


def folder_environment(folder: ServerFolder) -> dict[str, str]:
    """Return the environment of another's server: its libraries first, then the machine's CUDA, then the user's own.

    Its Python processes find this environment's packages only if their Python is this one.
    """
    ours = process_environment(folder)
    theirs = [Path(one).absolute() for one in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if one]
    of_python = cuda_folders() if folder.with_cuda_of_python else ()
    places = [folder.libraries, *_with_libraries(folder.backends), *_CUDA, *theirs, *of_python]
    if python_of(folder.backends) == THIS:
        # Last: another Python's library may lie beside this one's.
        places += [here] if (here := libpython_folder()) else []
    else:
        ours["PATH"] = os.environ.get("PATH", os.defpath)
    found = dict.fromkeys(str(place) for place in places if place.is_dir())
    return ours | {"LD_LIBRARY_PATH": os.pathsep.join(found)}


def environment_of(given: str) -> dict[str, str]:
    """Return the environment that the server of a folder gives its processes, as far as the folder decides it."""
    return folder_environment(replace(_layout(Path(given), Path(given), "cpu"), with_cuda_of_python=True))


def fitting(command: Sequence[str], folder: ServerFolder) -> list[str]:
    """Return the command of another's server: program and flags of resx's own, those left out that it does without.

    Raises:
        MissingCapability: it lacks one that it cannot do without.
    """
    added = [*_LIMITS, f"--repoagent-directory={folder.server.parent.parent / AGENTS}"]
    has_cache = (folder.caches / _LOCAL_CACHE).is_file()
    found = [command[0]]
    for argument in (*command[1:], *added):
        flag = _flag_of(argument)
        if flag in folder.flags:
            if has_cache or not flag.startswith("cache-"):
                found.append(argument)
        elif argument not in added and flag not in _MAY_LACK:
            raise MissingCapability(
                f"{folder.title}: has no --{flag}, which resx needs to restrict it to loopback; use a newer one (24.10 "
                "or later)"
            )
    return found


def _flag_of(argument: str) -> str:
    return argument.removeprefix("--").partition("=")[0]


def _layout(given: Path, root: Path, device: Device) -> ServerFolder:
    return ServerFolder(
        server=root / PROGRAM,
        backends=root / BACKENDS,
        libraries=root / LIBRARIES,
        caches=root / CACHES,
        device=device,
        given=given,
        flags=frozenset(),
        version=_version_of(root),
    )


def _absolute(given: str | Path) -> Path:
    path = Path(given).absolute()
    path = path.resolve() if ".." in path.parts else path
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{_OPTION} {one_line(str(path))}: is not valid UTF-8; rename it") from None
    return path


def _trusted(path: Path) -> Path:
    """Return the folder without links, if nobody else can have written what is in it."""
    if not path.is_dir():
        kind = "is no folder" if path.exists() else "no such folder"
        raise UsageError(f"{_OPTION} {path}: {kind}; {_LAYOUT}")
    try:
        return require_trusted_tree(path, remedy=_REMEDY)
    except (OSError, RuntimeError) as error:
        where = getattr(error, "filename", None) or path
        raise UsageError(f"{_OPTION} {where}: {getattr(error, 'strerror', error)}; {_REMEDY}") from error


def _require_layout(path: Path, root: Path) -> None:
    server = root / PROGRAM
    if not server.is_file():
        inner = path / "opt/tritonserver"
        hint = f"; give {inner}" if (inner / PROGRAM).is_file() else f"; {_LAYOUT}"
        raise UsageError(f"{_OPTION} {path}: has no {PROGRAM}{hint}")
    if not (root / BACKENDS).is_dir():
        raise UsageError(f"{_OPTION} {path}: has no {BACKENDS}/, so it cannot serve any model; {_LAYOUT}")
    if refuses_programs(server):
        raise MissingCapability(
            f"{path} ({file_system_of(server)}): is mounted noexec, so its server cannot run; copy it to a file system "
            "that allows programs"
        )
    if not os.access(server, os.X_OK):
        raise UsageError(f"{path / PROGRAM}: is not executable; chmod +x {shlex.quote(str(path / PROGRAM))}")


def choose_folder_device(wish: Wish, *, gpus: Callable[[], Gpus] = find_gpus) -> Device:
    """Return what another's server computes on; whether its CUDA libraries work it says itself, in its log.

    Raises:
        MissingCapability: a GPU is wanted and there is none.
    """
    if wish == "cpu":
        return "cpu"
    found = gpus()
    if wish == "gpu" and not found.count:
        raise MissingCapability(f"--device gpu: {found.missing}; use --device cpu to serve on the CPU")
    return "gpu" if found.count else "cpu"


def _flags_of(folder: ServerFolder, program: Path, environment: dict[str, str]) -> frozenset[str]:
    """Return the flags that the server's help lists; it prints that on any stream and ends with any code."""
    try:
        code, text = run([str(program), "--help"], environment, HELP_S)
    except TimeoutError as error:
        raise MissingCapability(
            f"{folder.title}: --help {error}; check that it is a Triton for this machine"
        ) from error
    if flags := frozenset(_FLAG.findall(text)):
        return flags
    said = [line.strip() for line in text.splitlines() if line.strip()]
    raise MissingCapability(f"{folder.title}: --help {ending_of(code)}: {(said or ['it printed nothing'])[-1]}")


def _version_of(root: Path) -> str:
    try:
        with (root / VERSION_FILE).open("rb") as file:
            text = file.read(64).decode(errors="replace").strip()
    except OSError:
        return ""
    return text if _VERSION.fullmatch(text) else ""


def _with_libraries(backends: Path) -> list[Path]:
    try:
        return sorted(folder for folder in backends.iterdir() if any(folder.glob("*.so*")))
    except OSError:
        return []


@contextlib.contextmanager
def _plain(folder: ServerFolder) -> Iterator[ServerFolder]:
    """Give the same server by a path that LD_LIBRARY_PATH can hold: `:` ends an entry there, `$` begins a variable."""
    if is_plain(folder.server):
        yield folder
        return
    with tempfile.TemporaryDirectory() as links:
        plain = plain_installation(folder, Path(links))
        assert isinstance(plain, ServerFolder)
        yield plain
