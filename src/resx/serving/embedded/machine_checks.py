"""Look at the machine: what resx can use here, and what would help where something is missing.

Each check asks the thing itself and takes part in no other; none imports torch.
"""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from resx.errors import MissingCapability, UsageError
from resx.machine import instruction_set, quota_note, usable_cores
from resx.repository.versions import Repository
from resx.runtimes.openvino_package import computes_in_bf16, openvino_version
from resx.serving.embedded.installation.native_backend import compiler
from resx.serving.embedded.installation.provider_engines import kept_engines
from resx.serving.embedded.installation.python_stub import THIS, Version, missing_stub
from resx.serving.embedded.installation.triton_installation import (
    TRITON_VERSION,
    find_installed,
    missing_for_install,
    missing_in_cache,
)
from resx.serving.embedded.int8_versions import ask_foreign_int8
from resx.serving.embedded.server_ports import Ports


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    what: str
    found: bool
    detail: str
    needed_for: str
    remedy: str = ""
    """What to do, where something is missing."""
    on_first_use: bool = False
    """It is not there yet, and will be fetched or made by itself."""
    is_wrong: bool = False
    """It is there, and does not do what it should."""

    @property
    def state(self) -> str:
        """What there is to say of it in a word or three."""
        if self.is_wrong:
            return "wrong"
        return "missing" if not self.found else "on first use" if self.on_first_use else "found"


def check_machine(repository: Path, *, processor: str | None = None) -> list[Finding]:
    """Return all findings, in the order of the line from training to serving.

    Args:
        repository: whose disk and int8 versions are looked at.
        processor: the instruction set; None: this machine's.
    """
    return [
        _python(),
        _cores(),
        _package("torch", "build, train, export", "pip install 'resx[cpu]' or 'resx[gpu]'"),
        _package("torchvision", "published weights", "pip install 'resx[cpu]' or 'resx[gpu]'"),
        _package("scikit-learn", "the digits", "pip install 'resx[cpu]' or 'resx[gpu]'"),
        _onnxruntime(),
        _openvino(),
        _package("tensorrt", "TensorRT engines", "pip install 'resx[gpu]' on a machine with an NVIDIA GPU"),
        _package("tensorrt-rtx-cu12", "TensorRT-RTX engines", "pip install 'resx[rtx]'"),
        _package("tritonclient", "deploy, query, bench", "pip install resx"),
        _gpu(),
        _triton(),
        _python_inside(),
        _compiler(),
        _docker(),
        *_ports(),
        _disk(repository),
        *_engines(),
        *_int8(repository, instruction_set() if processor is None else processor),
    ]


def _python() -> Finding:
    return Finding(
        what="Python", found=True, detail=f"{platform.python_version()} at {sys.executable}", needed_for="all"
    )


def _cores() -> Finding:
    cores = usable_cores()
    detail = quota_note() or f"{cores} core{'' if cores == 1 else 's'}, no lower quota"
    return Finding(what="CPU", found=True, detail=detail, needed_for="all")


def _package(name: str, needed_for: str, remedy: str) -> Finding:
    try:
        return Finding(what=name, found=True, detail=metadata.version(name), needed_for=needed_for)
    except metadata.PackageNotFoundError:
        return Finding(what=name, found=False, detail="not installed", needed_for=needed_for, remedy=remedy)


def _onnxruntime() -> Finding:
    what, needed_for = "onnxruntime", "verify, embedded server"
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _package(name, needed_for, "").found]
    if not installed:
        remedy = "pip install 'resx[cpu]' or 'resx[gpu]'"
        return Finding(what=what, found=False, detail="not installed", needed_for=needed_for, remedy=remedy)
    if len(installed) == 2:
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        detail = "both packages are installed and overwrite each other"
        return Finding(what=what, found=False, detail=detail, needed_for=needed_for, remedy=remedy)
    try:
        import onnxruntime
    except ImportError as error:
        remedy = f"pip install --force-reinstall {installed[0]}"
        detail = f"cannot be imported ({error})"
        return Finding(what=what, found=False, detail=detail, needed_for=needed_for, remedy=remedy)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    detail = f"{installed[0]} {metadata.version(installed[0])}: {providers}"
    return Finding(what=what, found=True, detail=detail, needed_for=needed_for)


def _openvino() -> Finding:
    what, needed_for = "openvino", "--runtime openvino, --bf16"
    try:
        computes = "bf16" if computes_in_bf16() else f"no bf16, as {instruction_set()} has no instructions for it"
        detail = f"{openvino_version()}: f32, {computes}"
    except MissingCapability as error:
        problem, _, remedy = str(error).removeprefix("openvino ").partition("; ")
        return Finding(what=what, found=False, detail=problem, needed_for=needed_for, remedy=remedy)
    return Finding(what=what, found=True, detail=detail, needed_for=needed_for)


def _gpu() -> Finding:
    needed_for = "TensorRT, fp16 speed"
    remedy = "a machine with an NVIDIA GPU and its driver"
    if shutil.which("nvidia-smi") is None:
        return Finding(what="GPU", found=False, detail="no nvidia-smi", needed_for=needed_for, remedy=remedy)
    done = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    if done is None:
        return Finding(what="GPU", found=False, detail="nvidia-smi fails", needed_for=needed_for, remedy=remedy)
    return Finding(what="GPU", found=True, detail=done, needed_for=needed_for)


def _triton() -> Finding:
    what, needed_for = "embedded Triton", "resx serve"
    if reason := missing_for_install():
        problem, _, remedy = reason.partition("; ")
        return Finding(what=what, found=False, detail=problem, needed_for=needed_for, remedy=remedy)
    try:
        if reason := missing_in_cache():
            problem, _, remedy = reason.partition("; ")
            return Finding(what=what, found=False, detail=problem, needed_for=needed_for, remedy=remedy)
        installed = find_installed()
    except UsageError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding(what=what, found=False, detail=problem, needed_for=needed_for, remedy=remedy)
    detail = f"{TRITON_VERSION}, in the cache" if installed else f"{TRITON_VERSION}, not downloaded yet (55 MB)"
    return Finding(what=what, found=True, detail=detail, needed_for=needed_for, on_first_use=not installed)


def _python_inside(python: Version = THIS) -> Finding:
    what, needed_for = "Python in Triton", "resx serve --isolated, image endpoints"
    if reason := missing_stub(python):
        problem, _, remedy = reason.partition("; ")
        return Finding(what=what, found=False, detail=problem, needed_for=needed_for, remedy=remedy)
    return Finding(what=what, found=True, detail=f"{python[0]}.{python[1]}", needed_for=needed_for)


def _compiler() -> Finding:
    what, needed_for = "C++ compiler", "resx serve --native"
    path = compiler()
    version = _output([path, "--version"]) if path else None
    if path is None or version is None:
        detail = f"{path} fails" if path else "no c++, g++ or clang++"
        remedy = "install g++ (apt install g++), or set CXX"
        return Finding(what=what, found=False, detail=detail, needed_for=needed_for, remedy=remedy)
    return Finding(what=what, found=True, detail=f"{path}: {version.partition('; ')[0]}", needed_for=needed_for)


def _docker() -> Finding:
    needed_for = "NVIDIA's Triton container"
    if shutil.which("docker") is None:
        remedy = "install Docker Engine and the NVIDIA container toolkit"
        return Finding(what="Docker", found=False, detail="no docker command", needed_for=needed_for, remedy=remedy)
    version = _output(["docker", "version", "--format", "{{.Server.Version}}"])
    if version is None:
        detail, remedy = "the engine does not answer", "start the Docker engine (systemctl start docker)"
        return Finding(what="Docker", found=False, detail=detail, needed_for=needed_for, remedy=remedy)
    return Finding(what="Docker", found=True, detail=f"engine {version}", needed_for=needed_for)


def _ports() -> list[Finding]:
    standard = Ports()
    return [_port(name, getattr(standard, name)) for name in ("http", "grpc", "metrics")]


def _port(name: str, port: int) -> Finding:
    what, needed_for = f"port {port}", f"resx serve ({name})"
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = f"resx serve --{name}-port 0 chooses a free one"
            return Finding(what=what, found=False, detail=str(error.strerror), needed_for=needed_for, remedy=remedy)
    return Finding(what=what, found=True, detail="free", needed_for=needed_for)


def _disk(repository: Path) -> Finding:
    existing = next(path for path in (repository.absolute(), *repository.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    enough = free_gb >= 2
    remedy = "" if enough else "free some space, or use another disk with --repository and RESX_CACHE"
    return Finding(
        what="disk", found=enough, detail=f"{free_gb:.1f} GB free", needed_for="export, serve", remedy=remedy
    )


def _engines() -> list[Finding]:
    """Return what TensorRT built for the embedded server, where it built anything."""
    try:
        folder, number, size_bytes = kept_engines()
    except (OSError, UsageError):  # the check of the server says what is wrong with the cache folder
        return []
    if not number:
        return []
    detail = f"{number}, {size_bytes / 1e6:.0f} MB in {folder}; safe to delete (they are built again)"
    return [Finding(what="TensorRT engines", found=True, detail=detail, needed_for="fast starts with TensorRT")]


def _int8(repository: Path, processor: str) -> list[Finding]:
    return [
        Finding(
            what=f"{one.name} version {one.version}",
            found=True,
            detail=one.detail,
            needed_for="int8 on this processor",
            remedy="" if one.passed else "export it on this processor, or in another precision",
            is_wrong=not one.passed,
        )
        for one in ask_foreign_int8(Repository(repository), processor)
    ]


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.strip()
    return text.replace("\n", "; ") if done.returncode == 0 and text else None
