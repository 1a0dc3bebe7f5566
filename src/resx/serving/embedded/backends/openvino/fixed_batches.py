"""Batches of one size each, compiled for themselves: OpenVINO prepares every layer anew when a batch has another size.

That takes as long as computing several images of a small network, and two runs out of three change the size where
requests come as they like (`python -m benchmarks.batch_sizes`). A model that is compiled for one size needs it never,
and is faster too, as its memory and its layers' kernels are settled before.

Each costs its weights once more, so a file that is not small has it for the lone request alone; other sizes share one
compiled model that takes any. `resx.fixed_batches` NO in config.pbtxt leaves only that one.
"""

from collections.abc import Mapping
from typing import Any

import config_values

PARAMETER = "resx.fixed_batches"
ANY_SIZE = 0
"""What stands for the size of a model that takes any."""
MOST_BYTES = 64 << 20
"""Of the weights of all sizes together, where each has a model of its own."""
MOST_SIZES = 16


def create_requests(
    core: Any, model: Any, config: Mapping[str, Any], properties: Mapping[str, Any]
) -> "dict[int, Any]":
    """Compile a model and return the request that computes batches of each size; `ANY_SIZE`: of all others.

    Args:
        core: OpenVINO's.
        model: as it was read; it stays as it is.
        config: the model's configuration.
        properties: that it is compiled with.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
        ValueError: the parameter is neither YES nor NO.
    """
    largest = int(config.get("max_batch_size", 0))
    sizes = fixed_sizes(largest, _weight_bytes(model)) if _is_wanted(config) and _takes_any_size(model) else []
    found = {}
    for size in sizes:
        fixed = model.clone()
        try:
            fixed.reshape({place: [size, *_row(port)] for place, port in enumerate(model.inputs)})
        except RuntimeError:  # a graph that has its own idea of a batch; as it is, it is compiled below
            return {ANY_SIZE: _compile(core, model, properties)}
        found[size] = _compile(core, fixed, properties)
    if len(found) < largest or not found:
        found[ANY_SIZE] = _compile(core, model, properties)
    return found


def fixed_sizes(largest: int, weight_bytes: int) -> "list[int]":
    """Return the sizes that have a model of their own: all of them, or a single row.

    Args:
        largest: batch that is served; 0: there are no batches.
        weight_bytes: of the file.
    """
    is_small = largest <= MOST_SIZES and largest * weight_bytes <= MOST_BYTES
    return list(range(1, (largest if is_small else min(largest, 1)) + 1))


def _is_wanted(config: Mapping[str, Any]) -> bool:
    return config_values.word(config, PARAMETER, ("YES", "NO")) != "NO"


def _takes_any_size(model: Any) -> bool:
    """Say whether the inputs' first axis is all that the file leaves open."""
    return bool(model.inputs) and all(_is_open_in_rows_alone(port.partial_shape) for port in model.inputs)


def _is_open_in_rows_alone(shape: Any) -> bool:
    if shape.rank.is_dynamic or not len(shape):
        return False
    rows, *others = shape
    return rows.is_dynamic and not any(size.is_dynamic for size in others)


def _row(port: Any) -> "list[int]":
    _, *others = port.partial_shape
    return [size.get_length() for size in others]


def _weight_bytes(model: Any) -> int:
    return sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")


def _compile(core: Any, model: Any, properties: Mapping[str, Any]) -> Any:
    return core.compile_model(model, "CPU", properties).create_infer_request()
