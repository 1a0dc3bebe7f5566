"""Compare two ONNX files by what they compute, on noise and on photographs; find the first layer that differs.

Where labelled images are given, both files' accuracy on them is measured too.

Nothing is known of the files but what they say themselves: inputs and outputs are read from the first one,
and the second must have the same, under the same names or in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from resx.card.image_form import as_float
from resx.data.photographs import photograph_crops
from resx.errors import UsageError, first_line
from resx.export.checks import parity
from resx.export.checks.accuracy import Answers, Labelled, right_answers
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import open_session, session_with_outputs
from resx.values import FrozenModel
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD

NodeArg: TypeAlias = Any
"""onnxruntime's description of an input or output."""
Array: TypeAlias = npt.NDArray[Any]
LabelledImages: TypeAlias = Callable[[int, int], Labelled]
"""Images with classes, for an image size and a number of classes."""
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_SYMBOLIC_SIZE = 2
"""Stands in for an axis other than the batch that has no fixed size."""
_SYMBOLIC_IMAGE = (3, 224, 224)
"""Stands in for the open axes of an image."""


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
    """The bound on the largest difference, relative to the scale, that would just pass: three digits, rounded up."""
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two files on the same inputs."""

    outputs: tuple[OutputDifference, ...]
    batch_sizes: tuple[int, ...]
    num_noise: int
    num_photographs: int
    """0 where the input is no image."""

    @property
    def passed(self) -> bool:
        """Whether every output did."""
        return all(output.passed for output in self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first tensor, in the order of the first file's graph, that both files compute and differ in."""

    tensor: str
    operator: str
    relative: float
    """Largest difference over the tensor's scale."""
    num_compared: int


def compare_files(
    first: Path, second: Path, *, rtol: float, max_batch_size: int = 8, seed: int = 0, by_position: bool = False
) -> Comparison:
    """Run both files on the same inputs, at batches of 1, 2 and `max_batch_size`, or the one that they are fixed to.

    Args:
        first: the one that differences are measured from.
        second: takes and gives tensors of the same types and shapes, and names unless `by_position`.
        rtol: the largest difference that passes, relative to an output's scale.
        max_batch_size: for files of a symbolic batch.
        seed: of the noise.
        by_position: match inputs and outputs by their order, not by their names.

    Raises:
        UsageError: a file is missing or damaged, fails on an input, or the two have different inputs or outputs.
        ExportError: onnxruntime refuses a file.
    """
    paths = (first, second)
    sessions = [open_session(path) for path in paths]
    inputs = _pairs([session.get_inputs() for session in sessions], paths, by_position=by_position)
    outputs = _pairs([session.get_outputs() for session in sessions], paths, by_position=by_position)
    names = [before.name for before, _ in outputs]
    seen: list[list[list[Array]]] = [[], []]
    noise, photographs = _feeds(sessions[0], max_batch_size, seed)
    for feed in (*noise, *photographs):
        seen[0].append(_run(sessions[0], names, feed, first))
        renamed = {after.name: feed[before.name] for before, after in inputs}
        seen[1].append(_run(sessions[1], [after.name for _, after in outputs], renamed, second))
    sizes = [[len(np.atleast_1d(next(iter(feed.values())))) for feed in feeds] for feeds in (noise, photographs)]
    return Comparison(
        outputs=tuple(
            _difference(name, *([np.asarray(run[index]) for run in answers] for answers in seen), rtol=rtol)
            for index, name in enumerate(names)
        ),
        batch_sizes=tuple(sizes[0]),
        num_noise=sum(sizes[0]),
        num_photographs=sum(sizes[1]),
    )


def _pairs(
    values: Sequence[Sequence[NodeArg]], paths: Sequence[Path], *, by_position: bool
) -> list[tuple[NodeArg, NodeArg]]:
    """Match the inputs, or the outputs, of both files.

    Raises:
        UsageError: they differ in number, type or shape, or in their names alone.
    """
    ordered = [list(one) if by_position else sorted(one, key=lambda value: value.name) for one in values]
    described = [[(value.name, value.type, _known(value.shape)) for value in one] for one in ordered]
    by_name = {value.name: value for value in ordered[1]}
    if not by_position and described[0] == described[1]:
        return [(value, by_name[value.name]) for value in values[0]]
    kinds = [[(value.type, _known(value.shape)) for value in one] for one in values]
    if kinds[0] != kinds[1]:
        texts = [", ".join(f"{value.name} {value.type} {_known(value.shape)}" for value in one) for one in values]
        raise UsageError(f"{paths[1]}: has {texts[1]} where {paths[0]} has {texts[0]}; compare files of the same kind")
    if not by_position:
        texts = [", ".join(value.name for value in one) for one in values]
        raise UsageError(
            f"{paths[1]}: has {texts[1]} where {paths[0]} has {texts[0]}; only the names differ: use --by-position"
        )
    return list(zip(values[0], values[1], strict=True))


def _run(
    session: onnxruntime.InferenceSession, names: Sequence[str], feed: dict[str, Array], path: Path
) -> list[Array]:
    try:
        answers = session.run(names, feed)
    except Exception as error:  # onnxruntime's errors have no base of their own
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
        raise UsageError(f"{path}: fails on {shapes}: {first_line(error)}") from error
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "fiub" or not answer.ndim:
            raise UsageError(
                f"{path}: output {name} is not a numeric tensor with a batch axis, so it cannot be compared"
            )
    return [np.asarray(answer) for answer in answers]


def right_by_files(
    files: Sequence[Path], labelled: LabelledImages, *, max_batch_size: int = 8
) -> list[npt.NDArray[np.bool_]]:
    """Return of each file which images, whose classes are known, it gets right.

    Args:
        files: of one input, an image, and classes as their first output.
        labelled: loads at most so many images as asked for, given image size and number of classes.
        max_batch_size: for files of a symbolic batch.

    Raises:
        UsageError: a file takes no images or gives no classes; whatever `labelled` raises.
        ExportError: onnxruntime refuses a file.
    """
    found = []
    for path in files:
        session = open_session(path)
        image, output = session.get_inputs()[0], session.get_outputs()[0]
        shape, (*_, num_classes) = _known(image.shape), _known(output.shape) or [None]
        if len(session.get_inputs()) != 1 or len(shape) != 4 or shape[1] != 3 or not shape[2] or shape[2] != shape[3]:
            raise UsageError(f"{path}: --data measures files with one square image [N, 3, S, S] as input")
        if len(output.shape) != 2 or num_classes is None:
            raise UsageError(f"{path}: --data measures files that give [N, classes], this gives {output.shape}")
        answers = _image_answers(session, path)
        batch_size = shape[0] or max_batch_size
        found.append(right_answers(answers, labelled(shape[2], num_classes), batch_size=batch_size))
    return found


def _image_answers(session: onnxruntime.InferenceSession, path: Path) -> Answers:
    """Return a function from UINT8 images to logits; a file of a fixed batch gets its last one filled up."""
    image = session.get_inputs()[0]
    written = onnx_reader.read_model(path, external_data=False)
    mean, std = (
        onnx_reader.written_channels(written, key, path) or default
        for key, default in ((onnx_reader.MEAN_KEY, IMAGENET_MEAN), (onnx_reader.STD_KEY, IMAGENET_STD))
    )
    (fixed, *_) = _known(image.shape)

    def answers(pixels: parity.Images) -> parity.Logits:
        filled = pixels if fixed is None else np.resize(pixels, (fixed, *pixels.shape[1:]))
        given = filled if image.type == "tensor(uint8)" else as_float(filled, mean, std)
        logits = session.run([session.get_outputs()[0].name], {image.name: given.astype(_TYPES[image.type])})[0]
        return np.asarray(logits)[: len(pixels)]

    return answers


def first_divergence(first: Path, second: Path, *, rtol: float, seed: int = 0) -> Divergence | None:
    """Return where the files' intermediate values first differ by more than `rtol` of their scale, or None.

    Tensors are told by name, so it works where the second file was made from the first, or both by one exporter.
    The runtime's own optimisations are off: they would remove the tensors.

    Raises:
        UsageError: the files have no intermediate tensor in common.
    """
    models = [onnx_reader.read_model(path) for path in (first, second)]
    produced = [{name for node in model.graph.node for name in node.output if name} for model in models]
    order = [(name, node.op_type) for node in models[0].graph.node for name in node.output if name in produced[1]]
    if not order:
        raise UsageError(f"{second}: shares no tensor names with {first}, which --bisect needs")
    sessions = [session_with_outputs(model, [name for name, _ in order]) for model in models]
    feed = _feeds(sessions[0], 2, seed)[0][0]
    inputs = [value.name for value in sessions[1].get_inputs()]
    same = feed if set(inputs) == set(feed) else dict(zip(inputs, feed.values(), strict=True))
    names = [name for name, _ in order]
    answers = [sessions[0].run(names, feed), sessions[1].run(names, same)]
    for (name, operator), before, after in zip(order, *answers, strict=True):
        relative = _relative(np.asarray(before), np.asarray(after))
        if not relative <= rtol:
            return Divergence(tensor=name, operator=operator, relative=relative, num_compared=len(order))
    return None


def _known(shape: Sequence[int | str | None]) -> list[int | None]:
    """A symbolic axis is the same as another symbolic axis, whatever it is called; converters write -1 and 0 too."""
    return [size if isinstance(size, int) and size > 0 else None for size in shape]


def _filled(shape: Sequence[int | str | None]) -> list[int | None]:
    """Return a shape in which at most the first axis, the batch, is open."""
    known = _known(shape)
    instead = (None, *_SYMBOLIC_IMAGE) if len(known) == 4 else (None, *[_SYMBOLIC_SIZE] * len(known))
    return [default if size is None else size for size, default in zip(known, instead, strict=False)]


def _feeds(
    session: onnxruntime.InferenceSession, max_batch_size: int, seed: int
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return inputs of noise for every file, and photographs for one that takes images, grey or RGB."""
    inputs = session.get_inputs()
    shape = _filled(inputs[0].shape)
    batch = shape[0] if shape else 1
    sizes = sorted({1, 2, max_batch_size}) if batch is None else [batch]
    random = np.random.default_rng(seed)
    noise = [{value.name: _noise(value, size, random) for value in inputs} for size in sizes]
    if len(inputs) > 1 or len(shape) != 4 or shape[1] not in (1, 3):
        return noise, []
    _, channels, height, width = (axis or 0 for axis in shape)
    photographs = []
    for size in sizes:
        crops = photograph_crops(size, max(height, width), seed=seed)[:, :, :height, :width]
        scaled = as_float(crops, IMAGENET_MEAN, IMAGENET_STD)
        given = (crops if inputs[0].type == "tensor(uint8)" else scaled)[:, :channels]
        photographs.append({inputs[0].name: np.ascontiguousarray(given.astype(_TYPES[inputs[0].type]))})
    return noise, photographs


def _noise(value: Any, batch: int, random: np.random.Generator) -> Array:
    if value.type not in _TYPES:
        raise UsageError(f"input {value.name} is {value.type}; float, float16 and uint8 inputs can be compared")
    sizes = [batch if size is None else size for size in _filled(value.shape)]
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
    smallest = parity.smallest_bound(float(distance.max()), scale)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    cosine = (expected * actual).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return OutputDifference(
        output=name,
        num_rows=len(expected),
        scale=scale,
        max_abs=float(distance.max()),
        mean_abs=float(distance.mean()),
        p99_abs=float(np.quantile(distance, 0.99)) if finite else float("inf"),
        cosine=float(cosine.mean()) if finite else 0.0,
        top1_agreement=float((expected.argmax(1) == actual.argmax(1)).mean()),
        smallest_rtol=smallest,
        passed=finite and float(distance.max()) <= rtol * (scale or 1.0),
    )


def _relative(before: Array, after: Array) -> float:
    if before.shape != after.shape:
        return float("inf")
    if not before.size or before.dtype.kind not in "fiu":
        return 0.0
    with np.errstate(invalid="ignore"):  # inf - inf, which is no difference to trust
        distance = np.abs(after.astype(np.float64) - before.astype(np.float64)).max()
    scale = float(np.abs(before.astype(np.float64)).max())
    return float(distance / scale) if scale else float(distance)
