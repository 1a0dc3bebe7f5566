"""What an output's numbers are, and how they are shown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resx.card.kinds import OutputKind
from resx.card.output_kind import are_probabilities, as_shown, kind_of_answers
from resx.card.signature import Signature
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import load_source
from resx.repository.config_pbtxt import ServingOptions, config_text, output_kind_of, parse

node = helper.make_node


def graph(*behind: NodeProto, outputs: int = 5, output: str = "p") -> ModelProto:
    """A linear layer `y` over an image, and what is behind it."""
    constants = {
        "w": np.random.default_rng(0).normal(0, 0.1, (outputs, 192)).astype(np.float32),
        "axis": np.array([1], np.int64),
        "one": np.ones((), np.float32),
    }
    nodes = [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w"], ["y"], transB=1), *behind]
    used = {name for one in nodes for name in one.input}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SPELLED_OUT = (
    node("Exp", ["y"], ["e"]),
    node("ReduceSum", ["e", "axis"], ["s"], keepdims=1),
    node("Div", ["e", "s"], ["p"]),
)
SPELLED_SIGMOID = (
    node("Neg", ["y"], ["a"]),
    node("Exp", ["a"], ["b"]),
    node("Add", ["b", "one"], ["c"]),
    node("Div", ["one", "c"], ["p"]),
)
GRAPHS: list[tuple[Sequence[NodeProto], int, OutputKind]] = [
    ((node("Identity", ["y"], ["p"]),), 5, "logits"),
    ((node("LogSoftmax", ["y"], ["p"], axis=1),), 5, "logits"),
    ((node("Softmax", ["y"], ["p"], axis=1),), 5, "probabilities"),
    ((node("Softmax", ["y"], ["q"], axis=1), node("Cast", ["q"], ["p"], to=TensorProto.FLOAT)), 5, "probabilities"),
    (SPELLED_OUT, 5, "probabilities"),
    ((node("Sigmoid", ["y"], ["p"]),), 5, "scores"),
    (SPELLED_SIGMOID, 5, "scores"),
    ((node("Sigmoid", ["y"], ["p"]),), 1, "scores"),
    ((node("Identity", ["y"], ["p"]),), 1, "scores"),
]


@pytest.mark.parametrize(("behind", "outputs", "kind"), GRAPHS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exported_file_says_what_its_output_is(
    behind: Sequence[NodeProto], outputs: int, kind: OutputKind, precision: str, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(*behind, outputs=outputs).SerializeToString())
    options = ExportOptions(input_type="float32", precision=precision)  # type: ignore[arg-type]
    card = export_version(load_source(str(path), weights="none", seed=0), options, tmp_path, name="m", command="x")
    assert card.signature.output_kind == kind
    parameters = parse(config_text(card, ServingOptions())).parameters
    assert output_kind_of({name: value.string_value for name, value in parameters.items()}) == kind
    again = load_source(str(tmp_path / "model.onnx"), weights="none", seed=0)
    (tmp_path / "again").mkdir()
    options = ExportOptions(input_type="float32")
    assert export_version(again, options, tmp_path / "again", name="m", command="x").signature.output_kind == kind


def test_probabilities_are_not_put_through_a_second_softmax_whatever_the_model_says() -> None:
    rows = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    for kind in ("logits", "probabilities"):
        assert np.array_equal(as_shown(rows, kind), rows)


def test_logits_become_probabilities_and_scores_stay() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0]])
    shown = as_shown(logits, "logits")
    assert shown[0] == pytest.approx([0.7310586, 0.2689414, 0.0])
    scores = np.array([[0.9, 0.8, 0.1]])
    assert np.array_equal(as_shown(scores, "scores"), scores)
    assert np.array_equal(as_shown(np.array([[0.3]]), "logits"), [[0.3]]), "one output is never 100 %"


@pytest.mark.parametrize(
    ("rows", "are"),
    [
        ([[0.5, 0.5]], True),
        ([[0.5, 0.5], [0.6, 0.6]], False),
        ([[1.5, -0.5]], False),
        ([[np.nan, 1.0]], False),
        ([[1.0]], False),
    ],
)
def test_rows_are_probabilities_if_none_is_negative_and_all_sum_to_one(rows: list[list[float]], are: bool) -> None:
    assert are_probabilities(np.array(rows)) == are


def test_small_logits_without_a_squashing_layer_are_no_scores() -> None:
    assert kind_of_answers(np.array([[0.2, 0.3], [0.4, 0.1]]), squashed=False) == "logits"


def test_cards_from_before_say_whether_a_softmax_is_in_the_file() -> None:
    fields = {
        "input_name": "x",
        "input_type": "float32",
        "input_dims": [3, 8, 8],
        "output_name": "p",
        "output_dims": [5],
    }
    for old, kind in ((True, "probabilities"), (False, "logits")):
        assert Signature.model_validate(fields | {"is_probabilities": old}).output_kind == kind
