"""What an engine's layers compute in, as the inspector says it, is held to what was asked for."""

import json
from typing import Any

import pytest

from resx.card.kinds import Precision
from resx.errors import ParityError
from resx.export.tensorrt.engine_export import inspected_facts
from resx.runtimes import engine_layers
from tests.support.cards import engine_facts


def inspected(kind: str, **types: str) -> dict[str, Any]:
    tensors = [{"Name": "t", key: value} for key, value in types.items()]
    return {"Name": f"a {kind}", "LayerType": kind, "Inputs": tensors, "Outputs": tensors}


def test_the_inspectors_reports_of_tensorrt_10_and_11_are_both_understood() -> None:
    layers = [
        {
            **inspected("CaskConvolution"),
            "Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        },
        inspected("gemm", DataType="BFloat16"),
        {**inspected("fusion", DataType="Int8"), "ParameterType": "Convolution"},
        inspected("Convolution", DataType="Float"),
        inspected("Reformat", DataType="Float"),
        "a layer of which only the name is known",
    ]
    found = engine_layers.inspected_layers(json.dumps({"Layers": layers}))
    assert [precision for _, precision in found] == ["HALF", "BF16", "INT8", "FLOAT"]
    with pytest.raises(ParityError, match="3 of 4"):
        engine_layers.require_precision(found, "fp16", name="m")


def test_an_int8_network_may_keep_some_layers_in_fp32_but_not_all() -> None:
    layers = [("a", "INT8"), ("b", "FLOAT")]
    assert engine_layers.require_precision(layers, "int8", name="m") == {"FLOAT": 1, "INT8": 1}
    with pytest.raises(ParityError, match="than int8"):
        engine_layers.require_precision(layers[1:], "int8", name="m")


@pytest.mark.parametrize(
    ("precision", "network", "found", "num_wider", "wider"),
    [
        ("fp16", {"HALF": 3}, ["HALF", "HALF", "HALF"], 0, ()),
        ("fp16", {"HALF": 3}, ["HALF", "FLOAT", "FLOAT"], 2, ("1", "2")),
        ("fp16", {"FLOAT": 2, "HALF": 1}, ["FLOAT", "FLOAT", "HALF"], 0, ("0", "1")),  # put back to fp32 knowingly
        ("bf16", {"BF16": 2}, ["BF16", "FLOAT"], 1, ("1",)),
        ("int8", {"FLOAT": 1, "INT8": 3}, ["INT8", "HALF", "FLOAT", "INT8"], 1, ("1", "2")),
        ("int8", {"FLOAT": 2, "INT8": 2}, ["INT8", "INT8", "FLOAT"], 0, ("2",)),  # two were joined
        ("fp32", {"FLOAT": 2}, ["FLOAT", "FLOAT"], 0, ()),
        ("fp16", {"HALF": 2}, [], None, ()),  # the inspector tells nothing
    ],
)
def test_layers_that_the_engine_computes_in_a_wider_precision_are_counted(
    precision: Precision, network: dict[str, int], found: list[str], num_wider: int | None, wider: tuple[str, ...]
) -> None:
    layers = [(str(number), kind) for number, kind in enumerate(found)]
    facts = inspected_facts(engine_facts(network), layers, precision, name="m")
    assert (facts.num_wider, facts.wider_layers) == (num_wider, wider)
    assert sum(facts.engine_precisions.values()) == len(found)


@pytest.mark.parametrize(
    ("precision", "found"),
    [("fp16", ["FLOAT", "FLOAT"]), ("int8", ["HALF", "FLOAT"]), ("bf16", ["FLOAT"]), ("fp32", ["FLOAT", "HALF"])],
)
def test_an_engine_that_computes_nothing_in_what_was_asked_for_is_refused(
    precision: Precision, found: list[str]
) -> None:
    layers = [(str(number), kind) for number, kind in enumerate(found)]
    with pytest.raises(ParityError, match=f"compute in another precision than {precision}"):
        inspected_facts(engine_facts({}), layers, precision, name="m")


def test_nobody_knows_what_an_int8_plan_from_elsewhere_was_meant_to_compute_in() -> None:
    layers = [("a", "INT8"), ("b", "FLOAT")]
    facts = inspected_facts(engine_facts({}, built_elsewhere=True), layers, "int8", name="m")
    assert (facts.num_wider, facts.wider_layers, facts.engine_precisions) == (None, ("b",), {"FLOAT": 1, "INT8": 1})
