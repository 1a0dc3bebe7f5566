"""Run a model file in process."""

from __future__ import annotations

from pathlib import Path

from resx.card.card import Card
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.runtimes.tensorrt_model import TensorRTModel
from resx.runtimes.tensorrt_package import load_package


def open_model(path: Path, card: Card) -> OnnxRuntimeModel | TensorRTModel:
    """Open the file of a version, or of an engine's folder, with what runs it.

    Raises:
        MissingCapability: it is a plan or an engine, and its package or a GPU is missing here.
        ExportError: the runtime refuses the file.
    """
    return OnnxRuntimeModel(path) if card.engine is None else TensorRTModel(path, load_package(card.engine.builder))
