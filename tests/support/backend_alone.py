"""A backend without Triton: stand-ins for what the server hands it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import resx.serving.embedded
from resx.serving.embedded.backends.memory_views import writable

BACKENDS = Path(resx.serving.embedded.__file__).parent / "backends"
MODEL = BACKENDS / "onnxruntime" / "model.py"


class Tensor:
    """Stands for the stub's: takes a capsule, as it does."""

    def __init__(self, name: str, capsule: object) -> None:
        class Holder:
            def __dlpack__(self, **_options: object) -> object:
                return capsule

            def __dlpack_device__(self) -> tuple[int, int]:
                return (1, 0)

        self.name, self.array = name, np.from_dlpack(Holder())

    from_dlpack = classmethod(lambda cls, name, capsule: cls(name, capsule))

    def to_dlpack(self) -> object:
        return writable(self.array).__dlpack__()  # numpy gives no capsule of what can only be read; the stub does


class Input:
    """Stands for the stub's: gives a capsule, as it does."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def to_dlpack(self) -> object:
        return self.array.__dlpack__()


class Error:
    INTERNAL, INVALID_ARG, CANCELLED = 1, 3, 7

    def __init__(self, message: str, code: int) -> None:
        self.message, self.code = message, code


class Response:
    def __init__(self, tensors: list[Tensor] | None = None, error: Error | None = None) -> None:
        self.made_of, self.error = tensors or [], error

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        return {tensor.name: tensor.array for tensor in self.made_of}


def send(response: Response) -> dict[str, np.ndarray]:
    """Do as the stub does: put the tensors that are not yet there into shared memory; return what the client gets."""
    for tensor in response.made_of:
        if not isinstance(tensor.array, _Shared):
            tensor.array = tensor.array.copy().view(_Shared)
    return {tensor.name: np.array(tensor.array) for tensor in response.made_of}


class _Shared(np.ndarray):
    pass


class Request:
    def __init__(self, *, cancelled: bool = False, outputs: tuple[str, ...] = ("total", "half"), **inputs: Any) -> None:
        self.inputs, self.cancelled, self.outputs = inputs, cancelled, outputs

    def is_cancelled(self) -> bool:
        return self.cancelled

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


def input_by_name(request: Request, name: str) -> Input | None:
    return Input(request.inputs[name]) if name in request.inputs else None


def load_backend(monkeypatch: pytest.MonkeyPatch, path: Path) -> ModuleType:
    """Load a backend's file as the server's stub does, with a stub's module that this test can look into."""
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.TritonError, utils.InferenceResponse = Tensor, Error, Response  # type: ignore[attr-defined]
    utils.get_input_tensor_by_name = input_by_name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    for folder in (path.parent, path.parent.parent):  # the server has the files of both in one folder
        monkeypatch.syspath_prepend(folder)
        for file in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, file.stem, raising=False)
    spec = importlib.util.spec_from_file_location("backend_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(*values: float, width: int = 2) -> np.ndarray:
    return np.array([[value] * width for value in values], np.float32)


def parameters(**texts: str) -> dict[str, Any]:
    return {"parameters": {name.replace("__", "."): {"string_value": text} for name, text in texts.items()}}


CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def beside(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """Import a file of the backend's folder as its stub does, for this test alone."""
    monkeypatch.syspath_prepend(MODEL.parent)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__(name)


def accelerated(name: str, kind: str = "gpu", **options: str) -> dict[str, Any]:
    entry = {"name": name, "parameters": options}
    return {"optimization": {"execution_accelerators": {f"{kind}_execution_accelerator": [entry]}}}
