"""What a TensorRT network, and the engine built from it, really computes in.

An "fp16" engine whose convolutions run in fp32 answers correctly and slowly, so nothing else would show it.
Counted are the layers with the work in them: convolutions and matrix products. Precisions have TensorRT's
names: FLOAT, HALF, BF16, INT8.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from resx.errors import ParityError

EXPECTED = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_BITS = {"INT8": 8, "HALF": 16, "BF16": 16, "FLOAT": 32}
_COMPUTE = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
_COMPUTE_WORDS = re.compile(r"conv|gemm|matmul|matrix", re.IGNORECASE)
# In this order: "BFloat16" has "Float" in it. Spellings of the inspector in TensorRT 10 and 11.
_SPELLINGS = {
    "BF16": re.compile(r"bf16|bfloat", re.IGNORECASE),
    "HALF": re.compile(r"fp16|half", re.IGNORECASE),
    "INT8": re.compile(r"int8", re.IGNORECASE),
    "FLOAT": re.compile(r"fp32|float", re.IGNORECASE),
}
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype")


def network_layers(network: Any) -> list[tuple[str, str]]:
    """Return (name, precision) of each layer of a parsed network that computes; INT8 if it reads dequantised data."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {
        layer.get_output(index).name: layer.type.name for layer in layers for index in range(layer.num_outputs)
    }
    return [(layer.name, _network_precision(layer, producers)) for layer in layers if layer.type.name in _COMPUTE]


def count_precisions(layers: list[tuple[str, str]]) -> dict[str, int]:
    """Return how many layers compute in each precision."""
    return dict(sorted(Counter(precision for _, precision in layers).items()))


def require_precision(
    layers: list[tuple[str, str]], precision: str, *, name: str, num_exempt: int = 0
) -> dict[str, int]:
    """Check that the layers compute in what was asked for, and return them counted.

    Args:
        layers: (name, precision), of a network or an engine. None at all passes: there is nothing to see.
        precision: fp32, fp16, bf16 or int8. An int8 network may keep layers in higher precision, but not all.
        name: of the model, for the message.
        num_exempt: how many layers were put back to fp32 knowingly.

    Raises:
        ParityError: they do not.
    """
    expected = EXPECTED[precision]
    others = [(layer, found) for layer, found in layers if found != expected]
    accepted = len(others) < max(1, len(layers)) if precision == "int8" else len(others) <= num_exempt
    if not accepted:
        layer, found = others[-1]
        raise ParityError(
            f"{name}: {len(others)} of {len(layers)} convolutions and matrix products compute in another precision "
            f"than {precision} ({layer}: {found}); nothing was published; export the ONNX file in {precision} first"
        )
    return count_precisions(layers)


def wider_layers(layers: list[tuple[str, str]], precision: str) -> tuple[str, ...]:
    """Return the names of the layers that compute in a wider precision than was asked for."""
    bits = _BITS[EXPECTED[precision]]
    return tuple(name for name, found in layers if _BITS.get(found, 0) > bits)


def count_surplus(layers: list[tuple[str, str]], network: dict[str, int], precision: str) -> int:
    """Return how many more of an engine's layers compute in a wider precision than of the parsed network's.

    By number, as the builder joins layers and gives them other names.

    Args:
        layers: of the engine.
        network: the parsed network's layers, counted by precision.
        precision: that was asked for.
    """
    bits = _BITS[EXPECTED[precision]]
    meant = sum(number for found, number in network.items() if _BITS.get(found, 0) > bits)
    return max(0, len(wider_layers(layers, precision)) - meant)


def require_some_precision(layers: list[tuple[str, str]], precision: str, *, name: str) -> dict[str, int]:
    """Check that an engine computes in what was asked for at all, and return its layers counted.

    fp32 is held to be all of it: less would be less accurate. In the lower precisions the builder may leave layers
    in a wider one, which costs speed; `count_surplus` says how many.

    Raises:
        ParityError: no layer does; in fp32, not all do.
    """
    if precision == "fp32" or not layers or all(found != EXPECTED[precision] for _, found in layers):
        return require_precision(layers, precision, name=name)
    return count_precisions(layers)


def inspected_layers(text: str) -> list[tuple[str, str]]:
    """Return (name, precision) of the computing layers in the inspector's JSON; empty if it names no types.

    An engine built without detailed verbosity lists layers as bare names.
    """
    layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    kinds = [(layer, f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}") for layer in layers]
    found = [
        (str(layer.get("Name", "")), _inspected_precision(layer))
        for layer, kind in kinds
        if _COMPUTE_WORDS.search(kind)
    ]
    return [(name, precision) for name, precision in found if precision]


def _network_precision(layer: Any, producers: dict[str, str]) -> str:
    if producers.get(layer.get_input(0).name) == "DEQUANTIZE":
        return "INT8"
    return str(layer.get_output(0).dtype.name)


def _inspected_precision(layer: dict[str, Any]) -> str:
    """Return the precision of the layer's data: its first input's, as an int8 layer may well give fp16."""
    for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]:
        written = next((str(tensor[key]) for key in _TYPE_KEYS if key in tensor), "")
        for precision, spelling in _SPELLINGS.items():
            if spelling.search(written):
                return precision
    return ""
