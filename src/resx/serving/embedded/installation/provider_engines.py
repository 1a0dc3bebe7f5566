"""The cache folder's engines of TensorRT inside onnxruntime: one folder for each kind of GPU and set of versions.

An engine runs under the TensorRT and on the kind of GPU that it was built with. Below, the backend gives each model
file a folder of its own (`backends/onnxruntime/engine_cache.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from resx.files.own_folders import cache_folder, make_cache_folder, require_own_cache
from resx.gpus import Gpus, find_gpus

FOLDER = "tensorrt_engines"
VARIABLE = "RESX_TENSORRT_CACHE"
"""Has a folder for each GPU, in CUDA's order; the backends read it."""
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


def cache_environment(gpus: Callable[[], Gpus] = find_gpus) -> dict[str, str]:
    """Return what tells the backends where engines are kept, and make the folders; nothing without a GPU.

    Raises:
        UsageError: somebody else can have written in them: an engine is code.
    """
    folders = []
    for name in gpus().names:
        folder = make_cache_folder(FOLDER, _named(name))
        require_own_cache(folder)
        folders.append(str(folder))
    return {VARIABLE: os.pathsep.join(folders)} if folders else {}


def kept_engines() -> tuple[Path, int, int]:
    """Return the folder of all, how many engines are in it, and the bytes of everything there."""
    root = cache_folder(FOLDER)
    files = [path for path in root.rglob("*") if path.is_file()]
    return root, sum(path.suffix == ".engine" for path in files), sum(path.stat().st_size for path in files)


def _named(gpu: str) -> str:
    parts = (f"onnxruntime-{_version(_RUNTIMES)}", f"tensorrt-{_version(_TENSORRT)}", gpu)
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") for part in parts)


def _version(packages: tuple[str, ...]) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "system"
