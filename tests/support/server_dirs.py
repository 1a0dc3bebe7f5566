"""Folders of another Triton's files: the wheel's own, untouched, laid out as in NVIDIA's container, and a stand-in."""

from __future__ import annotations

import shutil
import zipfile
from importlib import resources
from pathlib import Path

from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.installation.python_stub import STUB, THIS, stub_folder
from resx.serving.embedded.server_folder import BACKENDS, CACHES, LIBRARIES, PROGRAM, VERSION_FILE

WHOLE = "pytriton/tritonserver/"
OF_THE_WHEEL = (
    (f"{WHOLE}bin/", "bin"),
    (f"{WHOLE}backends/", BACKENDS),
    (f"{WHOLE}caches/", CACHES),
    ("nvidia_pytriton.libs/", LIBRARIES),
    (f"{WHOLE}python_backend_stubs/{stub_folder(THIS)}/", f"{BACKENDS}/python"),
)
HELP = """Usage: tritonserver [options]
  --help
	Print usage
"""


def lay_out_wheel(folder: Path, wheel: Path) -> Path:
    """Unpack the wheel's server as it came, with a backend `onnxruntime` of its own; return the folder."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for prefix, place in OF_THE_WHEEL:
                if name.startswith(prefix) and not name.endswith("/"):
                    target = folder / place / name.removeprefix(prefix)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    for program in (folder / PROGRAM, folder / BACKENDS / "python" / STUB):
        program.chmod(0o755)
    backend = folder / BACKENDS / "onnxruntime"
    backend.mkdir()
    sources = resources.files("resx.serving.embedded") / "backends"
    for source in (*sources.iterdir(), *(sources / "onnxruntime").iterdir()):
        if source.name.endswith(".py"):
            (backend / source.name).write_bytes(source.read_bytes())
    (folder / VERSION_FILE).write_text(f"{triton_installation.TRITON_VERSION}\n")
    return folder


def lay_out_script(folder: Path, script: str) -> Path:
    """Make a folder whose server is a shell script; return the folder."""
    program = folder / PROGRAM
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (folder / BACKENDS / "onnxruntime").mkdir(parents=True)
    (folder / BACKENDS / "onnxruntime" / "libtriton_onnxruntime.so").write_bytes(b"")
    return folder


def help_of(*flags: str) -> str:
    """Return a help text that lists these flags."""
    return HELP + "".join(f"  --{flag} <string>\n\tWhat it does.\n" for flag in flags)


def copy_of(folder: Path, target: Path) -> Path:
    """Copy a folder, by hard links where the file system has them."""
    shutil.copytree(folder, target, copy_function=_link)
    return target


def _link(source: str, target: str) -> str:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
    return target
