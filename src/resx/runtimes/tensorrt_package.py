"""The packages of TensorRT: imported, old enough, with a logger that keeps what they say."""

from __future__ import annotations

import importlib
from typing import Any, Literal, TypeAlias

from resx.errors import MissingCapability, first_line
from resx.runtimes.torch_gpu import gpu_here
from resx.text import join_lines

PackageName: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]

_OLDEST = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 7)}

_REMEDY = {
    "tensorrt": (
        "pip install 'resx[gpu]' on a machine with an NVIDIA GPU, "
        "or write the script that builds there: --emit-script FILE"
    ),
    "tensorrt_rtx": "pip install 'resx[rtx]'",
}


def load_package(name: PackageName) -> Any:
    """Import TensorRT or TensorRT for RTX.

    Raises:
        MissingCapability: it is not installed, too old, or (TensorRT only) there is no GPU to build on.
    """
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # the last two: its libraries are missing
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = "is not installed" if absent else f"cannot be loaded ({first_line(error)})"
        raise MissingCapability(f"{name} {reason}; {_REMEDY[name]}") from None
    oldest = _OLDEST[name]
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < oldest:
        raise MissingCapability(
            f"{name} {trt.__version__}: {oldest[0]}.{oldest[1]} or newer is needed for strongly typed networks; "
            f"{_REMEDY[name]}"
        )
    if name == "tensorrt" and gpu_here() is None:
        raise MissingCapability(f"tensorrt: PyTorch finds no usable GPU, which the build needs; {_REMEDY[name]}")
    return trt


def collecting_logger(trt: Any) -> Any:
    """Return a logger of TensorRT's that keeps its errors for `last_error` and prints nothing."""

    class Collecting(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Collecting()


def last_error(logger: Any) -> str:
    """Return the last error that a collecting logger was told, as one line, with a remedy where one is known."""
    text = join_lines(logger.errors[-1]) if logger.errors else "no reason given"
    if "OutOfMemory" in text or "workspace" in text:
        return f"{text}; raise --workspace-mib, or remove it"
    return text
