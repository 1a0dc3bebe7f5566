"""A row's answer is its own: the same alone and in company, and the same when it is asked again.

The server puts requests of different clients into one batch. A model whose layers look across the batch (batch norm
that takes the batch's statistics, a softmax or a mean over axis 0, activations quantised by the batch's range) mixes
them, and parity does not show it: source and file see the same batches. A model that draws random numbers has no
answer at all; two fresh sessions draw the same ones, so one session is asked twice.

Each row has an answer in the first place: a model that drops rows, or adds some, gives clients other clients' answers.
Whether it does can depend on the values, so it is asked with what no image holds too: zeros, which is what the server
warms it up with, and random bytes, which anybody may send.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from resx.card.kinds import Precision
from resx.card.signature import Signature
from resx.errors import ExportError, ParityError
from resx.runtimes.answers import RowsChanged
from resx.runtimes.onnxruntime_model import session_with_outputs

Array: TypeAlias = npt.NDArray[Any]
Ask: TypeAlias = Callable[[Array], Array]
"""Answers [N, K] of a model, opened once, to a batch as it takes it."""

BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 4e-2, "int8": 5e-2}
"""Largest difference, relative to the answers' scale: what other sums in another batch size do, rounded at worst."""
_COMPANY = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model whose answers are tried."""

    ask: Ask
    name: str
    signature: Signature
    max_batch_size: int
    bound: float
    onnx_file: Path | None = None
    """The graph in which a difference is located; None: it isn't."""


def trial_rows(signature: Signature, real: npt.NDArray[np.uint8], *, seed: int) -> npt.NDArray[np.uint8]:
    """Return rows UINT8 [N, ...] that are as different as can be: noise, black, white, and two real ones if there are.

    What a layer takes from the whole batch, a range or a mean, differs most beside black and white.
    """
    noise = np.random.default_rng(seed).integers(0, 256, size=(2, *signature.pixel_dims), dtype=np.uint8)
    flat = [np.full((1, *signature.pixel_dims), value, np.uint8) for value in (0, 255)]
    return np.concatenate([noise[:1], *flat, noise[1:], real[:2]])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """A row's answers [1, K] in two batches, and those batches."""

    alone: Array
    company: Array
    alone_input: Array
    """With the row in front."""
    company_input: Array
    place: int = 0
    """Of the row, in company."""


def require_own_answers(subject: Subject, rows: npt.NDArray[np.uint8]) -> None:
    """Check that each row has one answer, whoever is asked with it and however often.

    Raises:
        ParityError: it has not; the message names the node where the difference begins.
        ExportError: the file fails on zeros, with which the server would warm it up.
    """
    _require_all_rows(subject)
    _require_repeatable(subject, rows)
    trials = _fixed_trials(subject, rows) if subject.signature.batch else _open_trials(subject, rows)
    scale = max((float(np.abs(trial.alone).max()) for trial in trials), default=0.0)
    for trial in trials:
        difference = _relative(trial.alone, trial.company, scale)
        if difference > subject.bound:
            where = _location(subject, trial.alone_input, trial.company_input, place=trial.place)
            remedy = "change the model so that each image is computed independently"
            if not subject.signature.batch:
                remedy += ", or export with --max-batch 1 to serve single images"
            raise ParityError(
                f"{subject.name}: an image's answer depends on the other images in its batch (by {difference:.2%} of "
                f"the answers' scale{where and f', first at {where}'}), and the server batches images of different "
                f"clients; {remedy}; nothing was published"
            )


def rows_changed(name: str, where: str) -> ParityError:
    """Return the error of a model whose answer has more or fewer rows than its input; `where` may be empty."""
    return ParityError(
        f"{name}: returns a different number of rows than its batch{where and f', at {where}'}, so the server could "
        "not match answers to requests; make it return one row per image; nothing was published"
    )


def random_answers(name: str, where: str) -> ParityError:
    """Return the error of a model that answers differently when it is asked again; `where` may be empty."""
    return ParityError(
        f"{name}: its answers are random: the same image gets a different answer each "
        f"time{where and f', because of {where}'}; remove that operation, or switch it off in evaluation; nothing was "
        "published"
    )


def _require_all_rows(subject: Subject) -> None:
    """Ask with zeros as the server's warm-up does, and with random bytes: NaN and the largest numbers among them."""
    signature = subject.signature
    kind = np.dtype(signature.input_type)
    random = np.random.default_rng(0)
    sizes = {signature.batch} if signature.batch else {1, min(_COMPANY, subject.max_batch_size), subject.max_batch_size}
    for size in sorted(sizes):
        shape = (size, *signature.input_dims)
        noise = np.frombuffer(random.bytes(math.prod(shape) * kind.itemsize), kind).reshape(shape)
        for given, is_ours in ((np.zeros(shape, kind), True), (noise, False)):
            try:
                subject.ask(given)
            except RowsChanged:
                raise rows_changed(subject.name, _row_changer(subject, given)) from None
            except ExportError:
                if is_ours:
                    raise


def _require_repeatable(subject: Subject, rows: npt.NDArray[np.uint8]) -> None:
    size = subject.signature.batch or 1
    given = subject.signature.as_input(np.resize(rows, (size, *rows.shape[1:])))
    first, second = subject.ask(given), subject.ask(given)
    if _relative(first, second, float(np.abs(first).max())) > subject.bound:
        raise random_answers(subject.name, _location(subject, given, given))


def _open_trials(subject: Subject, rows: npt.NDArray[np.uint8]) -> list[_Trial]:
    """Ask for each row alone, and in every place of a small batch."""
    size = min(_COMPANY, subject.max_batch_size)
    if size < 2:
        return []
    inputs = subject.signature.as_input(rows)
    alone = [subject.ask(inputs[index : index + 1]) for index in range(len(inputs))]
    trials = []
    for start in range(len(inputs)):
        indices = [(start + offset) % len(inputs) for offset in range(size)]
        company = subject.ask(inputs[indices])
        trials += [
            _Trial(
                alone=alone[index],
                company=company[place : place + 1],
                alone_input=inputs[index : index + 1],
                company_input=inputs[indices],
                place=place,
            )
            for place, index in enumerate(indices)
        ]
    return [*trials, *_largest_trials(subject, inputs, alone)]


def _largest_trials(subject: Subject, inputs: Array, alone: Sequence[Array]) -> list[_Trial]:
    """Ask for all rows, over and over, in the largest batch: a model may look across large ones only."""
    indices = [place % len(inputs) for place in range(subject.max_batch_size)]
    company = subject.ask(inputs[indices])
    return [
        _Trial(
            alone=alone[index],
            company=company[place : place + 1],
            alone_input=inputs[index : index + 1],
            company_input=inputs[indices],
            place=place,
        )
        for place, index in enumerate(indices)
    ]


def _fixed_trials(subject: Subject, rows: npt.NDArray[np.uint8]) -> list[_Trial]:
    """Ask a file of a fixed batch for its first row beside copies, beside others, and in the next place."""
    size = subject.signature.batch or 1
    if size < 2:
        return []
    inputs = subject.signature.as_input(rows)
    repeated, mixed = np.repeat(inputs[:1], size, axis=0), np.resize(inputs, (size, *inputs.shape[1:]))
    moved = np.roll(mixed, 1, axis=0)
    alone = subject.ask(repeated)[:1]
    return [
        _Trial(
            alone=alone,
            company=subject.ask(batch)[place : place + 1],
            alone_input=repeated,
            company_input=batch,
            place=place,
        )
        for batch, place in ((mixed, 0), (moved, 1))
    ]


def _relative(before: Array, after: Array, scale: float) -> float:
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(before.astype(np.float64) - after.astype(np.float64)).max())
    return difference / scale if scale else difference


def _location(subject: Subject, first: Array, second: Array, *, place: int = 0) -> str:
    if subject.onnx_file is None:
        return ""
    return locate_difference(onnx.load(subject.onnx_file), first, second, place=place, bound=subject.bound)


def locate_difference(model: ModelProto, first: Array, second: Array, *, place: int = 0, bound: float) -> str:
    """Return operator and node of a graph whose output differs first between two runs of one session; empty if none.

    Of a tensor that holds a row for each of the batch, the first one of the first run is compared with the one at
    `place` of the second; of any other, all of it: what has no batch axis should be the same for every batch. The
    runtime's own optimisations are off, as they remove nodes.
    """
    producers = {name: node for node in model.graph.node for name in node.output if name}
    try:
        session = session_with_outputs(model, list(producers))
        image = session.get_inputs()[0].name
        runs = [session.run(list(producers), {image: batch}) for batch in (first, second)]
    except Exception:  # not every tensor can be an output; the place is a help, and the refusal stands without it
        return ""
    for node, *values in zip(producers.values(), *runs, strict=True):
        one, other = (
            tensor[row : row + 1] if tensor.ndim and len(tensor) == len(batch) else tensor
            for tensor, batch, row in zip(map(_as_array, values), (first, second), (0, place), strict=True)
        )
        is_comparable = one.shape == other.shape and one.dtype.kind == "f" and one.size
        if is_comparable and _relative(one, other, float(np.abs(one.astype(np.float64)).max())) > bound:
            return f"{node.op_type} (node {node.name or node.output[0]})"
    return ""


def _row_changer(subject: Subject, given: Array) -> str:
    return "" if subject.onnx_file is None else locate_row_change(onnx.load(subject.onnx_file), given)


def locate_row_change(model: ModelProto, given: Array) -> str:
    """Return operator and node of a graph that take a row for each of the batch and give another number; empty if none.

    The last such one: what a graph reshapes on the way it brings back, and what comes after it takes what it gave.
    """
    needed = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    try:
        names = [name for node in nodes for name in node.output if name]
        session = session_with_outputs(model, names)
        image = session.get_inputs()[0].name
        values = dict(zip(names, map(_as_array, session.run(names, {image: given})), strict=True)) | {image: given}
    except Exception:  # not every tensor can be an output; the place is a help, and the refusal stands without it
        return ""
    for node in nodes:  # from the end
        taken, made = (
            [len(values[name]) if values[name].ndim else 0 for name in names if name in values]
            for names in (node.input, node.output)
        )
        if len(given) in taken and made and len(given) not in made:
            return f"{node.op_type} (node {node.name or node.output[0]})"
    return ""


def _as_array(value: Any) -> Array:
    """Return a tensor; an empty one for a sequence or a map."""
    return value if isinstance(value, np.ndarray) else np.zeros(0)
