"""A version's file opened as the embedded server opens it: the backend's own code under the model's config.pbtxt."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from resx.machine import usable_cores
from resx.repository import config_rules
from resx.repository.config_pbtxt import CONFIG_FILE

_SILENT = 4


def served_config(model_folder: Path) -> dict[str, Any]:
    """Return a model's config.pbtxt as Triton hands it to a backend; empty if it has none.

    Raises:
        UsageError: it is not a model configuration, or may not be loaded (`config_rules`).
    """
    from google.protobuf import json_format

    folder = model_folder.absolute()
    if not (folder / CONFIG_FILE).is_file():
        return {}
    found: dict[str, Any] = json_format.MessageToDict(
        config_rules.read_checked(folder.parent, folder.name), preserving_proto_field_name=True
    )
    return found


def num_instances(config: dict[str, Any]) -> int:
    """Return how many instances a configuration asks for."""
    return sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1


def is_for_cpu(config: dict[str, Any]) -> bool:
    """Say whether a configuration places its instances on the CPU by name."""
    groups = config.get("instance_group", [])
    return bool(groups) and all(group.get("kind") == "KIND_CPU" for group in groups)


@cache
def served_backend(name: str = "onnxruntime") -> ModuleType:
    """Load a served backend's module: outside a server, without the stub's module that it imports.

    The files beside it are imported by their own names, as the server's stub does.

    Its sessions log nothing: their errors come as exceptions, and what they would write to stderr has names of the
    file in it as they are.
    """
    path = Path(__file__).parent / "backends" / name / "model.py"
    spec = importlib.util.spec_from_file_location(f"resx_served_backend_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules.setdefault("triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    module = importlib.util.module_from_spec(spec)
    folders = [str(path.parent), str(path.parent.parent)]
    sys.path += folders
    try:
        spec.loader.exec_module(module)
    finally:
        for folder in folders:
            sys.path.remove(folder)
    vars(module).update(LOG_SEVERITY=_SILENT, CORES=usable_cores())
    return module
