"""What the numbers of an output are, told from answers and graph, and how they are shown.

    logits         anything: a softmax makes probabilities of them
    probabilities  rows that are not negative and sum to 1: a softmax is in the model, and a second one would flatten it
    scores         numbers that stand for themselves: a sigmoid for each label, or a single output

Needs no torch and no onnx, as clients show answers too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resx.card.kinds import OutputKind

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SUM_TOLERANCE = 2e-3
"""fp16 probabilities of 1000 classes sum to 1 within this."""
_SQUASHING = {"Sigmoid", "HardSigmoid", "Softmax", "Exp", "Tanh", "Clip", "Softsign"}
"""Operators that bring numbers into a range, or that such a function is spelled out with."""
_WITH_WEIGHTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "QGemm"}


def is_squashed(model: ModelProto) -> bool:
    """Say whether the graph brings its output into a range behind its last layer with weights."""
    return bool(squashing_nodes(model))


def squashing_nodes(model: ModelProto) -> list[NodeProto]:
    """Return the nodes behind the last layers with weights that bring their output into a range."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [value.name for value in model.graph.output], set[str]()
    found: list[NodeProto] = []
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.output[0] in seen or node.op_type in _WITH_WEIGHTS:
            continue
        if node.op_type in _SQUASHING:
            found.append(node)
        seen.add(node.output[0])
        waiting += node.input
    return found


def kind_of_answers(answers: npt.NDArray[Any], *, squashed: bool) -> OutputKind:
    """Return what the answers [N, K] to several, very different inputs are.

    Args:
        answers: rows of numbers; those of a model that is broken may be anything.
        squashed: whether the graph brings its output into a range (`is_squashed`).
    """
    if answers.shape[1] < 2:
        return "scores"
    if are_probabilities(answers):
        return "probabilities"
    in_range = bool(((answers >= 0) & (answers <= 1)).all())
    return "scores" if squashed and in_range else "logits"


def are_probabilities(answers: npt.NDArray[Any]) -> bool:
    """Say whether every row [N, K] is not negative and sums to 1."""
    rows = np.asarray(answers, dtype=np.float64)
    if rows.shape[1] < 2 or not np.isfinite(rows).all():
        return False
    return bool((rows >= 0).all() and (np.abs(rows.sum(1) - 1) <= _SUM_TOLERANCE).all())


def as_shown(answers: npt.NDArray[Any], kind: OutputKind) -> npt.NDArray[Any]:
    """Return the rows [N, K] as people are shown them: probabilities of logits, all else as it is.

    Rows that are probabilities already stay so, whoever configured the model.
    """
    if kind != "logits" or answers.shape[1] < 2 or are_probabilities(answers):
        return answers
    with np.errstate(invalid="ignore"):  # rows that are not finite are reported as such
        weights = np.exp(answers - answers.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)
