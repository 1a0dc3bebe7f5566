"""Compare two ONNX files by what they compute, on noise and on photographs; find the first layer that differs.

Nothing is known of the files but what they say themselves: inputs and outputs are read from the first one,
and the second must have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from resx.errors import UsageError
from resx.export.card import normalised_pixels
from resx.export.images import photograph_crops
from resx.export.runtimes import open_session
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, FrozenModel

Array: TypeAlias = npt.NDArray[Any]
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_SYMBOLIC_SIZE = 2
"""Stands in for an axis other than the batch that has no fixed size."""


class OutputDifference(FrozenModel):
    """How far one output of the second file is from the first's, over all that was sent."""

    output: str
    num_rows: int
    scale: float
    """Largest |value| of the first file."""
    max_abs: float
    mean_abs: float
    p99_abs: float
    cosine: float
    """Mean over the rows."""
    top1_agreement: float
    smallest_rtol: float
    """The bound on the largest difference, relative to the scale, that would just pass."""
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first tensor, in the order of the first file's graph, that both files compute and differ in."""

    tensor: str
    operator: str
    relative: float
    """Largest difference over the tensor's scale."""
    num_compared: int


def compare_files(
    first: Path, second: Path, *, rtol: float, max_batch_size: int = 8, seed: int = 0
) -> list[OutputDifference]:
    """Run both files on the same inputs, at batches of 1, 2 and `max_batch_size`.

    Raises:
        UsageError: a file is missing or damaged, or the two have different inputs or outputs.
        ExportError: onnxruntime refuses a file.
    """
    sessions = [open_session(path) for path in (first, second)]
    for what in ("get_inputs", "get_outputs"):
        described = [[(value.name, value.type, _known(value.shape)) for value in getattr(s, what)()] for s in sessions]
        if described[0] != described[1]:
            raise UsageError(
                f"{second}: has {described[1]} where {first} has {described[0]}; compare files of one kind"
            )
    names = [value.name for value in sessions[0].get_outputs()]
    seen: list[list[list[Array]]] = [[], []]
    for feed in _feeds(sessions[0], max_batch_size, seed):
        for answers, session in zip(seen, sessions, strict=True):
            answers.append(session.run(names, feed))
    return [
        _difference(name, *([np.asarray(run[index]) for run in answers] for answers in seen), rtol=rtol)
        for index, name in enumerate(names)
    ]


def first_divergence(first: Path, second: Path, *, rtol: float, seed: int = 0) -> Divergence | None:
    """Return where the files' intermediate values first differ by more than `rtol` of their scale, or None.

    Tensors are told by name, so it works where the second file was made from the first, or both by one exporter.
    The runtime's own optimisations are off: they would remove the tensors.

    Raises:
        UsageError: the files have no intermediate tensor in common.
    """
    models = [onnx.load(path) for path in (first, second)]
    produced = [{name for node in model.graph.node for name in node.output if name} for model in models]
    order = [(name, node.op_type) for node in models[0].graph.node for name in node.output if name in produced[1]]
    if not order:
        raise UsageError(f"{second}: has no tensor of {first}'s; --bisect needs files that share names")
    sessions = [_with_outputs(model, [name for name, _ in order]) for model in models]
    feed = next(iter(_feeds(sessions[0], 2, seed)))
    answers = [session.run([name for name, _ in order], feed) for session in sessions]
    for (name, operator), before, after in zip(order, *answers, strict=True):
        relative = _relative(np.asarray(before), np.asarray(after))
        if not relative <= rtol:
            return Divergence(tensor=name, operator=operator, relative=relative, num_compared=len(order))
    return None


def _known(shape: Sequence[int | str | None]) -> list[int | None]:
    """A symbolic axis is the same as another symbolic axis, whatever it is called."""
    return [size if isinstance(size, int) else None for size in shape]


def _feeds(session: onnxruntime.InferenceSession, max_batch_size: int, seed: int) -> list[dict[str, Array]]:
    """Return inputs: noise for every file, and photographs for one that takes RGB images."""
    inputs = session.get_inputs()
    batch = inputs[0].shape[0] if inputs[0].shape else 1
    sizes = [batch] if isinstance(batch, int) else sorted({1, 2, max_batch_size})
    random = np.random.default_rng(seed)
    feeds = [{value.name: _noise(value, size, random) for value in inputs} for size in sizes]
    shape = _known(inputs[0].shape)
    if len(inputs) == 1 and len(shape) == 4 and shape[1] == 3 and shape[2] and shape[2] == shape[3]:
        for size in sizes:
            crops = photograph_crops(size, shape[2], seed=seed)
            as_float = normalised_pixels(crops, IMAGENET_MEAN, IMAGENET_STD).astype(_TYPES[inputs[0].type])
            feeds.append({inputs[0].name: crops if inputs[0].type == "tensor(uint8)" else as_float})
    return feeds


def _noise(value: Any, batch: int, random: np.random.Generator) -> Array:
    if value.type not in _TYPES:
        raise UsageError(f"input {value.name} is {value.type}; float, float16 and uint8 inputs can be compared")
    sizes = [size if isinstance(size, int) else _SYMBOLIC_SIZE for size in value.shape]
    if sizes and not isinstance(value.shape[0], int):
        sizes[0] = batch
    if value.type == "tensor(uint8)":
        return random.integers(0, 256, size=sizes, dtype=np.uint8)
    return random.standard_normal(sizes).astype(_TYPES[value.type])


def _difference(name: str, before: list[Array], after: list[Array], *, rtol: float) -> OutputDifference:
    expected = np.concatenate([batch.reshape(len(batch), -1) for batch in before]).astype(np.float64)
    actual = np.concatenate([batch.reshape(len(batch), -1) for batch in after]).astype(np.float64)
    finite = bool(np.isfinite(expected).all() and np.isfinite(actual).all())
    with np.errstate(invalid="ignore"):
        distance = np.abs(actual - expected) if finite else np.full_like(expected, np.inf)
    scale = float(np.abs(expected).max())
    smallest = float(distance.max()) / scale if scale else float(distance.max())
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    cosine = (expected * actual).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return OutputDifference(
        output=name, num_rows=len(expected), scale=scale, max_abs=float(distance.max()),
        mean_abs=float(distance.mean()), p99_abs=float(np.quantile(distance, 0.99)), cosine=float(cosine.mean()),
        top1_agreement=float((expected.argmax(1) == actual.argmax(1)).mean()), smallest_rtol=smallest,
        passed=finite and smallest <= rtol,
    )  # fmt: skip


def _relative(before: Array, after: Array) -> float:
    if before.shape != after.shape:
        return float("inf")
    if not before.size or before.dtype.kind not in "fiu":
        return 0.0
    distance = np.abs(after.astype(np.float64) - before.astype(np.float64)).max()
    scale = float(np.abs(before.astype(np.float64)).max())
    return float(distance / scale) if scale else float(distance)


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
