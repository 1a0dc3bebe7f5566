"""int8: a file whose layers compute on 8-bit integers, made of the fp32 file by onnxruntime.quantization.

Static quantisation in QDQ form, weights per channel (Jacob et al. 2018, arXiv:1712.05877). No one file is fast
everywhere, so each target has its recipe:

    cpu   activations UINT8, bias INT32, after onnxruntime's own preparation. TensorRT's parser refuses an
          INT32 bias.
    gpu   activations INT8 around zero, bias fp32, a Q/DQ pair at each weight, as TensorRT wants them. On the
          CPU it computes the same, no faster than fp32.

The normalisation in front of the first layer stays in fp32: it is 3 channels, and all else follows from it. So does
a softmax or a sigmoid at the end: of probabilities near 0 and 1, 8 bits leave one in 256.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantType, calibrate, shape_inference
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from resx.card.kinds import CalibrationMethod, Target
from resx.card.output_kind import squashing_nodes
from resx.card.runtime import RuntimeName
from resx.card.signature import Signature
from resx.errors import ExportError, UsageError, first_line, nearest
from resx.export.graph.onnx_writer import WEIGHTED
from resx.export.int8 import bias_scales
from resx.export.int8.calibration import Ranges
from resx.runtimes.onnxruntime_model import open_session
from resx.streams import silence_library

_OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})
# Every activation of a batch is held at once while its histogram is made.
_PIXELS_AT_ONCE = 600_000
_PERCENTILE = 99.999


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationRecipe:
    """What onnxruntime.quantization is to do."""

    activations: QuantType
    options: Mapping[str, bool]


RECIPES: Mapping[Target, QuantizationRecipe] = {
    "cpu": QuantizationRecipe(activations=QuantType.QUInt8, options={}),
    "gpu": QuantizationRecipe(
        activations=QuantType.QInt8,
        options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": False,
            "QDQDisableWeightAdjustForInt32Bias": True,
        },
    ),
}


def prepare(fp32_file: Path, path: Path, *, target: Target, runtime: RuntimeName = "onnxruntime") -> None:
    """Write the form of the fp32 file that is quantised: shapes inferred and operators fused for onnxruntime's CPU."""
    if target == "gpu" or runtime == "openvino":
        shutil.copyfile(fp32_file, path)
        return
    with silence_library():
        try:
            shape_inference.quant_pre_process(str(fp32_file), str(path))
        except Exception:  # the symbolic inference, which only transformers need, fails on files of Paddle's converter
            shape_inference.quant_pre_process(str(fp32_file), str(path), skip_symbolic_shape=True)


def layers(model: ModelProto) -> list[str]:
    """Return the names of the nodes with weights, first to last."""
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED]


def matching(model: ModelProto, patterns: Sequence[str]) -> list[str]:
    """Return the names of the nodes that a pattern like `layer4.*` matches, first to last.

    Raises:
        UsageError: a pattern matches none.
    """
    names = [node.name for node in model.graph.node]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = layers(model)
            close = nearest(pattern, known) or f"; layers are {', '.join(known[:3])}, ..., {known[-1]}"
            raise UsageError(f"--keep-fp32 {pattern}: matches no node{close}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def find_ranges(
    prepared: Path,
    images_NCHW: npt.NDArray[np.uint8],
    method: CalibrationMethod,
    signature: Signature,
    *,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Ranges:
    """Run the images through the fp32 file and return every tensor's range.

    minmax takes all values in, percentile leaves out the outermost 0.001 %. entropy is onnxruntime's, and needs no
    histograms to be known: its search begins at 128 bins, as many as it makes, so that the whole range is the only
    candidate, and what it returns is cut to the lowest and highest value.

    Args:
        prepared: as `prepare` wrote it.
        images_NCHW: of any number; a few are run at a time.
        method: see above.
        signature: of the file.
        on_progress: is told how many images have been run.

    Raises:
        UsageError: a tensor is not finite on them.
    """
    feeds = [{signature.input_name: batch} for batch in batches(images_NCHW, signature)]
    bounds = _collect(prepared, feeds, None, on_progress)
    for name, (low, high) in bounds.items():
        if not math.isfinite(high - low):
            raise UsageError(f"--int8: {name} is {low} to {high} on the calibration images; int8 needs finite values")
    return _collect(prepared, feeds, bounds, on_progress) if method == "percentile" else bounds


def batches(
    images_NCHW: npt.NDArray[np.uint8], signature: Signature, *, size: int | None = None
) -> list[npt.NDArray[Any]]:
    """Return the images as inputs of the file, in an order of their own: the one they come in decides nothing.

    Args:
        images_NCHW: of any number.
        signature: of the file.
        size: of a batch; None: as many as memory allows, and as the file takes.
    """
    order = sorted(range(len(images_NCHW)), key=lambda index: hashlib.sha256(images_NCHW[index].tobytes()).digest())
    size = size or signature.batch or max(1, min(64, _PIXELS_AT_ONCE // int(np.prod(images_NCHW.shape[1:]))))
    if signature.batch:  # takes whole batches: the last one is filled up with images that it had
        order = [order[index % len(order)] for index in range(-(-len(order) // size) * size)]
    return [signature.as_input(images_NCHW[order[start : start + size]]) for start in range(0, len(order), size)]


def _collect(
    prepared: Path,
    feeds: Sequence[dict[str, npt.NDArray[Any]]],
    bounds: Ranges | None,
    on_progress: Callable[[str], None],
) -> Ranges:
    """Run onnxruntime's calibrator over the batches: lowest and highest values, or percentiles within `bounds`.

    `bounds` are the tensors' true ranges, where histograms begin. onnxruntime begins with the first batch's, and keeps
    its bins: frames of one color that leave rounding noise give bins so narrow that the next batch needs gigabytes.
    """
    with tempfile.TemporaryDirectory(dir=prepared.parent) as folder, silence_library():
        augmented = Path(folder) / "augmented.onnx"
        kind = calibrate.MinMaxCalibrater if bounds is None else calibrate.PercentileCalibrater
        calibrator = kind(prepared, _OPERATORS, str(augmented), symmetric=False)
        if bounds is not None:
            calibrator.collector = _collector(calibrator.num_bins, bounds)
        calibrator.augment_graph()
        # Its own session optimizes nothing, and takes 1.4 times as long for the same values, rounding aside.
        calibrator.infer_session = open_session(augmented)
        num_images, num_run = sum(len(batch) for feed in feeds for batch in feed.values()), 0
        for feed in feeds:
            calibrator.collect_data(_OneBatch(feed))
            num_run += sum(map(len, feed.values()))
            on_progress(f"{num_run} of {num_images} images")
        found = calibrator.compute_data()
    ranges = {name: [np.asarray(bound).item() for bound in data.range_value] for name, data in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


def _collector(num_bins: int, bounds: Ranges) -> calibrate.HistogramCollector:
    """Return onnxruntime's collector with an empty histogram over each tensor's whole range."""
    collector = calibrate.HistogramCollector(
        "percentile",
        symmetric=False,
        num_bins=num_bins,
        num_quantized_bins=num_bins,
        percentile=_PERCENTILE,
        scenario="same",
    )
    for name, (low, high) in bounds.items():
        limit = np.float32(max(abs(low), abs(high)))
        counts, edges = np.histogram(np.zeros(0, np.float32), num_bins, range=(-float(limit), float(limit)))
        collector.histogram_dict[name] = (counts, edges, np.float32(low), np.float32(high), limit)
    return collector


def quantise(prepared: Path, ranges: Ranges, *, target: Target, keep_fp32: Collection[str]) -> ModelProto:
    """Return the int8 form of the prepared file, in which the nodes named in `keep_fp32` compute in fp32.

    So do the operators without weights (sums, concatenations, pooling) that touch one of them: they would
    round the very tensors that are to stay exact.

    Raises:
        ExportError: onnxruntime could not quantise it.
    """
    model = onnx.load(prepared)
    recipe = RECIPES[target]
    bounds = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    options = dict(recipe.options) | {"TensorQuantOverrides": bias_scales.widen_weights(model, ranges)}
    try:
        with silence_library():
            quantizer = QDQQuantizer(
                model,
                True,
                False,
                QuantType.QInt8,
                recipe.activations,
                calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, bounds),
                [],
                [*_in_front(model), *at_the_end(model), *keep_fp32, *touching(model, keep_fp32)],
                _OPERATORS,
                options,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    except (ValueError, RuntimeError, KeyError) as error:
        raise ExportError(f"onnxruntime could not quantise it: {first_line(error)}") from error
    quantised: ModelProto = quantizer.model.model
    return quantised


def num_int8_weights(model: ModelProto) -> int:
    """Count the weight values of layers that are stored in 8 bits, or quantised where they are used (gpu)."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    total = 0
    for node in model.graph.node:
        source = made_by.get(node.input[1]) if node.op_type in WEIGHTED else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        before = made_by.get(source.input[0])
        name = source.input[0] if before is None else before.input[0]
        total += int(np.prod(stored[name].dims)) if name in stored else 0
    return total


def _in_front(model: ModelProto) -> list[str]:
    """Return the names of the nodes before the first layer: cast and normalisation."""
    names = []
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            break
        names.append(node.name)
    return names


def at_the_end(model: ModelProto) -> list[str]:
    """Return the names of the nodes behind the last layers that bring their output into a range, and of those behind.

    A Clip is none of them: behind a convolution it is its activation.
    """
    final = [node for node in squashing_nodes(model) if node.op_type != "Clip"]
    made = {name for node in final for name in node.output}
    names = {node.name for node in final}
    for node in model.graph.node:  # in the order of computation
        if made.intersection(node.input):
            made |= set(node.output)
            names.add(node.name)
    return [node.name for node in model.graph.node if node.name in names]


def touching(model: ModelProto, names: Collection[str]) -> list[str]:
    """Return the names of the nodes without weights that share a tensor with these nodes, or with a ReLU behind."""
    kept = [node for node in model.graph.node if node.name in names]
    tensors = {name for node in kept for name in (node.input[0], *node.output)}
    for node in model.graph.node:
        if node.op_type == "Relu" and node.input[0] in tensors:
            tensors |= set(node.output)
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in WEIGHTED and tensors.intersection((*node.input, *node.output))
    ]


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """The one form in which onnxruntime takes calibration data: an iterator that ends in None."""

    def __init__(self, feed: dict[str, npt.NDArray[Any]]) -> None:
        self._feeds = iter([feed])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the batch, then None."""
        return next(self._feeds, None)
