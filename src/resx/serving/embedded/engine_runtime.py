"""What an engine needs where the embedded server opens it: an NVIDIA GPU, and the package that built it.

A plan of TensorRT is served by the backend `tensorrt`, here and in NVIDIA's container; an engine of TensorRT for RTX by
`tensorrt_rtx`, which only the embedded server has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from resx.card.card import Card
from resx.errors import MissingCapability, UsageError
from resx.gpus import Device, Gpus, find_gpus
from resx.repository.config_pbtxt import CONFIG_FILE, engine_backend_of, read

_KINDS = {"tensorrt": "a TensorRT plan", "tensorrt_rtx": "an engine of TensorRT for RTX"}
_EXTRAS = {"tensorrt": "resx[gpu]", "tensorrt_rtx": "resx[rtx]"}
_ELSEWHERE = {
    "tensorrt": "serve it on a machine with both, or with NVIDIA's container (docker compose --profile gpu up)",
    "tensorrt_rtx": "serve it on a machine with both, or publish with --format onnx",
}
_DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx"),
}
_VERSION_PARTS = 3
"""An engine is opened by the version that built it; a fourth number counts builds of NVIDIA's."""


def engine_backend(model_folder: Path) -> str:
    """Return the backend of a model whose file is an engine, by its configuration; empty for any other model."""
    try:
        return engine_backend_of(read(model_folder / CONFIG_FILE))
    except UsageError:  # whoever loads the model says what is wrong with it
        return ""


def require_engine_runtime(
    model_folder: Path,
    card: Card | None,
    *,
    embedded: bool,
    device: Device | None,
    gpus: Callable[[], Gpus] = find_gpus,
    installed: Callable[[str], str | None] | None = None,
) -> None:
    """Check that a server can open a model's engine, if it is one.

    Args:
        model_folder: with config.pbtxt.
        card: of the version; None: the version of the package is not known.
        embedded: whether it is the embedded server, which runs here.
        device: what that server computes on; None: whatever is here.
        gpus: finds them.
        installed: returns the version of a package, empty if nobody can tell it, None where it is not installed.

    Raises:
        MissingCapability: it cannot; the message says all that is missing.
    """
    backend = engine_backend(model_folder)
    if not backend:
        return
    if not embedded:
        if backend == "tensorrt_rtx":
            raise MissingCapability(
                f"{model_folder.name}: {_KINDS[backend]}, for which NVIDIA's Triton has no backend; serve it with "
                "`resx serve`, or publish with --format onnx or tensorrt"
            )
        return
    wanted = card.engine.version if card is not None and card.engine is not None else ""
    lacks = [*_missing_gpu(device, gpus), *_missing_package(backend, wanted, installed or installed_version)]
    if lacks:
        raise MissingCapability(
            f"{model_folder.name}: {_KINDS[backend]} needs an NVIDIA GPU and the package {backend}"
            f"{wanted and f' {wanted}'}: {'; '.join(lacks)}; {_ELSEWHERE[backend]}"
        )


def installed_version(package: str) -> str | None:
    """Return the version of a package of NVIDIA's; empty if it is there and does not tell, None if it is not."""
    if importlib.util.find_spec(package) is None:
        return None
    for distribution in _DISTRIBUTIONS[package]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _missing_gpu(device: Device | None, gpus: Callable[[], Gpus]) -> list[str]:
    if reason := gpus().missing:
        return [reason]
    return ["the server runs on the CPU (--device cpu)"] if device == "cpu" else []


def _missing_package(backend: str, wanted: str, installed: Callable[[str], str | None]) -> list[str]:
    found = installed(backend)
    if found is None:
        return [f"{backend} is not installed (pip install '{_EXTRAS[backend]}')"]
    if wanted and found and _parts(found) != _parts(wanted):
        return [f"{backend} {found} is installed, which cannot open it (install {wanted}, or export it again here)"]
    return []


def _parts(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:_VERSION_PARTS]
