"""A version's file opened in this process as the embedded server opens it: its backend's own code, its config.pbtxt."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from resx.card.card import Card
from resx.gpus import Device
from resx.machine import usable_cores
from resx.repository import config_rules
from resx.repository.config_pbtxt import CONFIG_FILE, ENGINE_BACKENDS
from resx.repository.versions import Repository
from resx.runtimes.signal_stack import keep_signal_stack
from resx.serving.embedded.backends.config_values import SILENT, Host

_SESSIONS = {"onnxruntime": "onnx_session.py", "openvino": "openvino_session.py", "tensorrt": "engine_session.py"}
"""What each backend opens its files with."""
THREADS = {
    "onnxruntime": {"intra_op_thread_count": "{}"},
    "openvino": {"INFERENCE_NUM_THREADS": "{}", "NUM_STREAMS": "1"},
    "tensorrt": {},
}
"""The parameters that set the threads of one instance, and their values."""


def served_config(model_folder: Path, card: Card | None = None) -> dict[str, Any]:
    """Return a model's config.pbtxt as Triton hands it to a backend; empty if it has none.

    Args:
        model_folder: with config.pbtxt, which is the newest version's.
        card: of the version that is to be opened; None: it has none.

    Raises:
        UsageError: it is not a model configuration, or may not be loaded (`config_rules`).
    """
    from google.protobuf import json_format

    folder = model_folder.absolute()
    if not (folder / CONFIG_FILE).is_file():
        return {}
    message = config_rules.read_checked(folder.parent, folder.name)
    if card is not None:
        Repository(folder.parent).fit_config(message, folder.name, card)
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def backend_of(config: dict[str, Any]) -> str:
    """Return the backend, by its folder, that opens a model of this configuration."""
    name = str(config.get("backend", ""))
    return "tensorrt" if name in ENGINE_BACKENDS else name if name in _SESSIONS else "onnxruntime"


def is_for_cpu(config: dict[str, Any]) -> bool:
    """Say whether a configuration places its instances on the CPU by name."""
    groups = config.get("instance_group", [])
    return bool(groups) and all(group.get("kind") == "KIND_CPU" for group in groups)


def open_version(path: str, config: dict[str, Any], backend: str, device: Device) -> Any:
    """Return a version's file, opened as an instance of its backend opens it on this device.

    It has `run`, which takes the outputs' names, the inputs by name and `options`; `interface` and `threads`.

    Raises:
        ValueError: the configuration has a value that cannot be.
        Exception: whatever the runtime raises that refuses the file.
    """
    kind = "GPU" if device == "gpu" and not is_for_cpu(config) else "CPU"
    with keep_signal_stack():  # the backend's own process ends with its models, and needs nothing
        return load_session(backend).open_model(path, config, this_process(), kind)


def this_process() -> Host:
    """Return what a session shares with this process: its cores, and no log."""
    return Host(cores=usable_cores(), log_severity=SILENT)


@cache
def load_session(backend: str = "onnxruntime") -> ModuleType:
    """Load what a backend opens its files with; what lies beside it is imported by its own name, as in the server."""
    path = Path(__file__).parent / "backends" / backend / _SESSIONS[backend]
    spec = importlib.util.spec_from_file_location(f"resx_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folders = [str(path.parent), str(path.parent.parent)]
    sys.path += folders
    try:
        spec.loader.exec_module(module)
    finally:
        for folder in folders:
            sys.path.remove(folder)
    return module
