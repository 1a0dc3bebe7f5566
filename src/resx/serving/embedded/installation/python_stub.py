"""Python inside the embedded server: the wheel has a stub for a few versions, and a stub loads libpython.

The isolated backend needs it, and so do models of the backend `python`, image endpoints among them. The native backend
does not, nor does the server itself. Every function takes the version, this interpreter's by default.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

from resx.errors import MissingCapability
from resx.repository import config_pbtxt
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.serving.embedded.installation.dynamic_loader import linked

Version = tuple[int, int]
PYTHONS: tuple[Version, ...] = ((3, 11), (3, 12), (3, 13))
THIS: Version = (sys.version_info[0], sys.version_info[1])
STUB = "triton_python_backend_stub"


def missing_stub(python: Version = THIS) -> str | None:
    """Return why the embedded server cannot run Python, with the remedy, or None."""
    if python not in PYTHONS:
        return (
            f"the embedded Triton runs Python {_text(PYTHONS[0])} to {_text(PYTHONS[-1])}, but this is "
            f"{_text(python)}; use one of those, or NVIDIA's container (docker compose --profile cpu up)"
        )
    if libpython_folder(python) is None:
        return (
            f"the embedded Triton needs {_libpython(python)}, which is not installed; install libpython{_text(python)} "
            "or a Python built with --enable-shared"
        )
    return None


def computes_natively(asked: bool | None, python: Version = THIS) -> bool:
    """Say whether models are computed in the server itself: as asked; unasked, where nothing else can be."""
    return missing_stub(python) is not None if asked is None else asked


def require_stub_for(model_folder: Path, python: Version = THIS) -> None:
    """Check that the embedded server can run a model, as far as that takes Python.

    Raises:
        MissingCapability: its backend is one of Python, and there is no Python for it.
    """
    config = model_folder / CONFIG_FILE
    if not config.is_file():
        return
    message = config_pbtxt.read(config)
    if not config_pbtxt.runs_in_python(message):
        return
    if reason := missing_stub(python):
        raise MissingCapability(f"{model_folder.name}: needs Python inside the server: {reason}")


def stub_folder(python: Version) -> str:
    """Return the name of a version's folder in the wheel; there is none for a version that is not in PYTHONS."""
    return _text(python)


def libpython_folder(python: Version = THIS) -> Path | None:
    """Return where this interpreter's own libpython lies, if it is of that version."""
    folders = [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL"), f"{sys.base_prefix}/lib"]
    name = _libpython(python)
    return next((Path(folder) for folder in folders if folder and (Path(folder) / name).exists()), None)


def python_of(backends: Path) -> Version | None:
    """Return which Python the stub among a server's backends loads; None where there is no stub, or it cannot run."""
    stub = backends / "python" / STUB
    try:
        names = " ".join(linked(stub, os.environ).names)
    except (OSError, MissingCapability):
        return None
    found = re.search(r"libpython(\d+)\.(\d+)\.so", names)
    return (int(found[1]), int(found[2])) if found else None


def _libpython(python: Version) -> str:
    return f"libpython{_text(python)}.so.1.0"


def _text(python: Version) -> str:
    return f"{python[0]}.{python[1]}"
