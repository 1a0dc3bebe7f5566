"""The backend `onnxruntime` in the server's own process: C++ of this package, compiled into the cache folder.

Its sources are in `backends/onnxruntime/native`. They need no header of Triton's or onnxruntime's: what is called is
declared there. The server loads onnxruntime's library out of the installed wheel, the one that Python's module has
too, so a file is verified and served by the same code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from resx.errors import MissingCapability
from resx.files.staging import CACHED_FILE, staging_folder, write_atomic
from resx.serving.embedded.installation.python_stub import THIS, Version, missing_stub

LIBRARY = "libtriton_onnxruntime.so"
_FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
_BUILT_OF = "built-of.sha256"


def missing_for_native(python: Version = THIS) -> str | None:
    """Return why the native backend cannot be had on this machine, with the remedy, or None."""
    if compiler() is None:
        return f"--native needs a C++ compiler to build its backend; install g++ or set CXX; {_without(python)}"
    if onnxruntime_library() is None:
        return (
            "the installed onnxruntime lacks libonnxruntime.so, which --native loads; pip install 'onnxruntime>=1.20'"
        )
    return None


def onnxruntime_library() -> Path | None:
    """Return the C library that the wheel onnxruntime carries beside its Python module."""
    spec = importlib.util.find_spec("onnxruntime")
    folder = Path(spec.origin).parent / "capi" if spec and spec.origin else None
    return next(iter(sorted(folder.glob("libonnxruntime.so*"))), None) if folder else None


def put_native_backend(folder: Path, on_step: Callable[[str], None]) -> None:
    """Compile this version's backend into `folder`, if it is not there yet; a server that has the old one keeps it.

    Raises:
        MissingCapability: there is no compiler, or it refuses; the message has its first error.
    """
    if reason := missing_for_native():
        raise MissingCapability(reason)
    sources = resources.files("resx.serving.embedded") / "backends" / "onnxruntime" / "native"
    contents = {source.name: source.read_bytes() for source in sources.iterdir() if source.name.endswith((".cc", ".h"))}
    digest = hashlib.sha256(repr((sorted(contents.items()), _FLAGS)).encode()).hexdigest()
    built_of = folder / _BUILT_OF
    if (folder / LIBRARY).is_file() and built_of.is_file() and built_of.read_text() == digest:
        return
    on_step("compile the native backend, once")
    for path in (folder.parent, folder):
        path.mkdir(mode=0o755, exist_ok=True)
    with staging_folder(folder, mode=0o700) as staged:
        for name, content in contents.items():
            (staged / name).write_bytes(content)
        _compile(staged, [name for name in contents if name.endswith(".cc")])
        write_atomic(folder / LIBRARY, (staged / LIBRARY).read_bytes(), mode=CACHED_FILE)
    write_atomic(built_of, digest, mode=CACHED_FILE)


def _compile(folder: Path, names: list[str]) -> None:
    command = [compiler() or "c++", *_FLAGS, *names, "-o", LIBRARY, "-ldl"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in lines if re.search(r"\berror:", line)), (lines or ["no reason given"])[0])
        raise MissingCapability(f"{command[0]} cannot compile the native backend ({why}); {_without()}")


def _without(python: Version = THIS) -> str:
    """Return what to do without the native backend, or why nothing can be."""
    return f"without --native, {reason}" if (reason := missing_stub(python)) else "`resx serve --isolated` needs none"


def compiler() -> str | None:
    """Return the C++ compiler: $CXX, or the usual names."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)
