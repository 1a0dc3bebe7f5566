"""What a repository's server can run besides data: its backends, and Python inside it.

A server is named by its folder (`--server-dir`), or by nothing where it is resx's own.
"""

from __future__ import annotations

from pathlib import Path

from resx.errors import MissingCapability, UsageError
from resx.repository import config_pbtxt
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.serving.embedded.installation import python_stub
from resx.serving.embedded.installation.dynamic_loader import linked
from resx.serving.embedded.installation.python_stub import STUB, THIS, require_stub_for
from resx.serving.embedded.server_folder import BACKENDS, environment_of

_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}
"""Older names, for models that say no backend."""
_OF_ITS_IMAGE = "copy it from the same image (docs/server_dir.md)"


def missing_python(server_dir: str) -> str | None:
    """Return why a server cannot run Python models, with the remedy, or None."""
    if not server_dir:
        return python_stub.missing_stub()
    stub = Path(server_dir) / BACKENDS / "python" / STUB
    if not stub.is_file():
        return f"{stub.parent}: has no {STUB}; {_OF_ITS_IMAGE}"
    try:
        reason = linked(stub, environment_of(server_dir)).reason
    except (MissingCapability, OSError) as error:
        return str(error)
    return f"{stub}: {reason}; install the missing libraries, and numpy and Pillow for that Python" if reason else None


def runs_this_python(server_dir: str) -> bool:
    """Say whether a server's Python models use the packages of this environment."""
    return not server_dir or python_stub.python_of(Path(server_dir) / BACKENDS) == THIS


def require_runnable(model_folder: Path, server_dir: str) -> None:
    """Check that a server has what a model's configuration says that it runs on.

    Raises:
        MissingCapability: it lacks the backend, or Python for it.
    """
    if not server_dir:
        require_stub_for(model_folder)
        return
    config = model_folder / CONFIG_FILE
    try:
        message = config_pbtxt.read(config) if config.is_file() else None
    except UsageError:  # whoever loads the model says what is wrong with it
        return
    name = "" if message is None else message.backend or _PLATFORMS.get(message.platform, "")
    if not name:
        return
    folder = Path(server_dir) / BACKENDS / name
    has_library = (folder / f"libtriton_{name}.so").is_file()
    if not has_library and not (folder / "model.py").is_file():
        raise MissingCapability(f"{model_folder.name}: needs the backend {name}, and {_have(folder.parent)}")
    if (name == "python" or not has_library) and (reason := missing_python(server_dir)):
        raise MissingCapability(f"{model_folder.name}: needs Python inside the server: {reason}")


def _have(backends: Path) -> str:
    try:
        names = sorted(entry.name for entry in backends.iterdir() if entry.is_dir())
    except OSError as error:
        return f"{backends} can no longer be read ({error.strerror}); restore it"
    return f"{backends} has {', '.join(names) or 'none'}; {_OF_ITS_IMAGE}"
