"""Run a model file in process."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from resx.card.card import Card
from resx.card.runtime import PrecisionHint, Runtime, RuntimeName
from resx.machine import instruction_set
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel, onnxruntime_version
from resx.runtimes.openvino_model import OpenVinoModel
from resx.runtimes.openvino_package import openvino_version
from resx.runtimes.tensorrt_model import TensorRTModel
from resx.runtimes.tensorrt_package import load_package

CpuModel: TypeAlias = OnnxRuntimeModel | OpenVinoModel
"""A file that a runtime computes on the CPU."""


def open_model(path: Path, card: Card) -> CpuModel | TensorRTModel:
    """Open the file of a version, or of an engine's folder, with what runs it.

    Raises:
        MissingCapability: its package, a GPU or the processor's BF16 is missing here.
        ExportError: the runtime refuses the file.
    """
    if card.engine is not None:
        return TensorRTModel(path, load_package(card.engine.builder))
    hint = None if card.runtime is None else card.runtime.precision_hint
    return open_file(path, card.runtime_name, hint or "f32")


def open_file(path: Path, runtime: RuntimeName, precision_hint: PrecisionHint, threads: int | None = None) -> CpuModel:
    """Open a file on the CPU; threads None takes every core that this process may use.

    Raises:
        UsageError: the file is missing or cannot be read.
        MissingCapability: OpenVINO is missing, or does not compute in what was asked for here.
        ExportError: the runtime refuses the file.
    """
    if runtime == "onnxruntime":
        return OnnxRuntimeModel(path, threads=threads)
    return OpenVinoModel(path, precision_hint=precision_hint, threads=threads)


def describe_runtime(model: CpuModel, precision_hint: PrecisionHint) -> Runtime:
    """Return what the card says of the runtime that this opened file is in."""
    if isinstance(model, OnnxRuntimeModel):
        return Runtime(name="onnxruntime", version=onnxruntime_version(), instruction_set=instruction_set())
    return Runtime(
        name="openvino",
        version=openvino_version(),
        precision_hint=precision_hint,
        instruction_set=instruction_set(),
        layer_precisions=model.layer_precisions,
    )
