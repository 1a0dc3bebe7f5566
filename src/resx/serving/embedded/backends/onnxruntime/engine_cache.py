"""Where onnxruntime's TensorRT provider keeps the engines that it builds, which takes it seconds to minutes.

It names an engine's file by names alone: of the model's file, the graph, its inputs and its tensors. Two versions of a
network with other weights have the same names, so the second is answered with the weights of the first (onnxruntime
issues 6455 and 32254). Here each model file has a folder of its own, named by the SHA-256 of what its version holds.
What the builder measured is good for every model; it lies in the folder above.

`resx serve` names one folder for each GPU in RESX_TENSORRT_CACHE. Without it nothing is kept.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import execution_providers
from execution_providers import TENSORRT_RT, Provider

FOLDERS = "RESX_TENSORRT_CACHE"
NOT_HASHED = "card.json"
"""It says when a version was made, which changes no engine."""


def folder_for(device: int, environment: Mapping[str, str]) -> "Path | None":
    """Return the folder for a GPU, as CUDA numbers them; None: nothing is kept."""
    folders = environment.get(FOLDERS, "").split(os.pathsep)
    return Path(folders[device]) if device < len(folders) and folders[device] else None


def place(providers: Sequence[Provider], model: Path, folder: "Path | None") -> list[Provider]:
    """Return the providers, TensorRT with the folders for what config.pbtxt tells it to keep; they are made."""
    return [(name, _placed(options, model, folder) if name == TENSORRT_RT else options) for name, options in providers]


def forget(providers: Sequence[Provider]) -> bool:
    """Delete what was kept, as a server that was killed can have left half of it; say whether there was anything."""
    found = False
    for name, options in providers:
        if name != TENSORRT_RT:
            continue
        engines = Path(options.get("trt_engine_cache_path", ""))
        timings = Path(options.get("trt_timing_cache_path", ""))
        files = [*engines.iterdir()] if engines.is_absolute() and engines.is_dir() else []
        files += [*timings.glob("*.timing")] if timings.is_absolute() else []
        found |= bool(files)
        for file in files:
            shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)
    return found


def key_of(model: Path) -> str:
    """Return a name for a model file with the files beside it, which may hold its weights."""
    whole = hashlib.sha256()
    for file in sorted(model.parent.iterdir()):
        if not file.is_file() or file.name == NOT_HASHED:
            continue
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        whole.update(os.fsencode(file.name) + b"\0" + digest.digest())
    return whole.hexdigest()[:32]


def _placed(options: Mapping[str, str], model: Path, folder: "Path | None") -> dict[str, str]:
    placed = dict(options)
    for what in ("engine", "timing"):
        enabled, path = f"trt_{what}_cache_enable", f"trt_{what}_cache_path"
        if execution_providers.is_on(placed.get(enabled, "0")) and path not in placed:
            if folder is None:
                placed[enabled] = "0"
                continue
            own = folder / key_of(model) if what == "engine" else folder
            own.mkdir(mode=0o700, parents=True, exist_ok=True)
            placed[path] = str(own)
    return placed
