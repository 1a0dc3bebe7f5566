"""int8 for OpenVINO: the fp32 file quantized by NNCF, Intel's own tool, in QDQ form with corrected biases.

The graph stays ONNX, which OpenVINO reads as fast as its own IR (the same layers compute in 8 bits), so the version is
one file that every other part of resx can open.

    mean         of each image's lowest and highest value: NNCF's own default
    minmax       every value
    percentile   mean of each image's outermost 0.01 %

Activations are symmetric (NNCF's preset `performance`), weights symmetric per channel, and biases take back the mean
error of their layer. Where the processor multiplies 8-bit numbers in pairs that saturate in 16 bits, weights get 7 bits
in all layers, elsewhere in the first (`overflow_fix`).

Source: docs.openvino.ai, Basic Quantization Flow and Quantizing with Accuracy Control; nncf 3.4.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto

from resx.card.kinds import CalibrationMethod
from resx.data.dataset import Images
from resx.errors import ExportError, MissingCapability, first_line
from resx.export.int8 import quantization
from resx.machine import instruction_set, saturates_int8, usable_cores
from resx.runtimes.onnxruntime_model import session_options
from resx.runtimes.openvino_model import OpenVinoModel
from resx.streams import silence_library

Feed: TypeAlias = dict[str, npt.NDArray[Any]]
PRESET = "performance"
LARGEST_DROP = 0.01
"""Of accuracy, absolute."""
_MAX_RANKING_IMAGES = 300
_REMEDY = "pip install 'resx[openvino]'"
_ESTIMATORS = {"mean": "MEAN_MINMAX", "minmax": "MINMAX", "percentile": "MEAN_QUANTILE"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Images whose classes are known, by which layers are chosen that must stay in fp32."""

    images: Images
    classes: npt.NDArray[np.int64]
    """[N]."""
    as_input: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
    """Makes the file's input of images."""


def load_nncf() -> Any:
    """Import NNCF, which reports nothing to anybody (`resx.__init__`).

    Raises:
        MissingCapability: it is not installed, or cannot be loaded.
    """
    try:
        with silence_library():
            return importlib.import_module("nncf")
    except (ImportError, OSError, RuntimeError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "nncf"
        reason = "is not installed" if absent else f"cannot be loaded ({first_line(error)})"
        raise MissingCapability(f"--int8 --runtime openvino: nncf {reason}; {_REMEDY}") from None


def quantise(
    fp32_file: Path,
    feeds: Sequence[Feed],
    method: CalibrationMethod,
    *,
    keep_fp32: Collection[str],
    validation: Validation | None = None,
    processor: str | None = None,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> ModelProto:
    """Return the int8 form of the fp32 file, in which the nodes named in `keep_fp32` compute in fp32.

    Args:
        fp32_file: for the CPU.
        feeds: the images to calibrate on, by the name of the input, one at a time or as many as the file takes.
        method: see the module's table.
        keep_fp32: names of nodes.
        validation: layers go back to fp32 until its accuracy falls by a point at most, as OpenVINO computes it.
        processor: the instruction set that it is for; None: this machine's.
        on_progress: is told how many images have been run.

    Raises:
        MissingCapability: NNCF is not installed.
        ExportError: NNCF could not quantize it.
    """
    nncf, model = load_nncf(), onnx.load(fp32_file)
    in_fp32 = {*keep_fp32, *quantization.at_the_end(model), *quantization.touching(model, keep_fp32)}
    how = {
        "preset": nncf.QuantizationPreset(PRESET),
        "target_device": nncf.TargetDevice.CPU,
        "subset_size": len(feeds),
        "ignored_scope": nncf.IgnoredScope(names=sorted(in_fp32)),
    }
    parameters = _advanced(method, instruction_set() if processor is None else processor)
    dataset = nncf.Dataset(feeds, _count(len(feeds), on_progress))
    try:
        with silence_library(), _bounded_threads():
            if validation is None:
                quantised: ModelProto = nncf.quantize(model, dataset, advanced_parameters=parameters, **how)
                return quantised
            restored: ModelProto = nncf.quantize_with_accuracy_control(
                model,
                dataset,
                nncf.Dataset(_items(validation)),
                lambda made, items: _accuracy(fp32_file, made, items),
                max_drop=LARGEST_DROP,
                advanced_quantization_parameters=parameters,
                advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                    ranking_subset_size=min(len(validation.classes), _MAX_RANKING_IMAGES), num_ranking_workers=1
                ),
                **how,
            )
            return restored
    except MissingCapability:
        raise
    except Exception as error:  # NNCF's errors have no base of their own
        raise ExportError(f"NNCF could not quantize it: {first_line(error)}") from error


def accuracy_drop(fp32_file: Path, quantised: ModelProto, validation: Validation) -> float:
    """Return by how much the accuracy falls, as OpenVINO computes both; below 0 where it rises.

    Raises:
        MissingCapability: OpenVINO is not installed.
        ExportError: it refuses a file.
    """
    before, behind = (_accuracy(fp32_file, model, _items(validation))[0] for model in (onnx.load(fp32_file), quantised))
    return before - behind


def layers_in_fp32(model: ModelProto, layers: Collection[str]) -> list[str]:
    """Return which of these layers of a quantized file compute on a weight that was not quantized."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.name in layers and "DequantizeLinear" not in (made_by.get(name) for name in node.input[1:2])
    ]


def _advanced(method: CalibrationMethod, processor: str) -> Any:
    parameters = importlib.import_module("nncf.quantization.advanced_parameters")
    estimators = importlib.import_module("nncf.quantization.range_estimator").RangeEstimatorParametersSet
    fix = "ENABLE" if saturates_int8(processor) else "FIRST_LAYER"
    return parameters.AdvancedQuantizationParameters(
        overflow_fix=parameters.OverflowFix[fix],
        activations_range_estimator_params=getattr(estimators, _ESTIMATORS[method]),
    )


def _count(total: int, on_progress: Callable[[str], None]) -> Callable[[Feed], Feed]:
    """Return what hands a batch on and tells how many there have been; some go through twice."""
    num_run = 0

    def hand_on(feed: Feed) -> Feed:
        nonlocal num_run
        num_run = num_run % total + 1
        on_progress(f"{num_run} of {total}")
        return feed

    return hand_on


def _items(validation: Validation) -> list[tuple[npt.NDArray[Any], int]]:
    """Return the images as inputs, one at a time, with their classes."""
    return [
        (validation.as_input(validation.images[index : index + 1]), int(wanted))
        for index, wanted in enumerate(validation.classes)
    ]


def _accuracy(
    path: Path, model: ModelProto, items: Iterable[tuple[npt.NDArray[Any], int]]
) -> tuple[float, list[float]]:
    """Return the share of the items that OpenVINO gets right with this model, and whether it does for each."""
    opened = OpenVinoModel(path, content=model.SerializeToString())
    right = [float(opened(image)[0].argmax() == wanted) for image, wanted in items]
    return float(np.mean(right)), right


@contextlib.contextmanager
def _bounded_threads() -> Iterator[None]:
    """Let NNCF's sessions of onnxruntime have as many threads as this process may use; it leaves no other way."""
    engine: Any = importlib.import_module("nncf.onnx.engine")
    before = engine.rt
    engine.rt = types.SimpleNamespace(
        SessionOptions=lambda: session_options(usable_cores()), InferenceSession=onnxruntime.InferenceSession
    )
    try:
        yield
    finally:
        engine.rt = before
