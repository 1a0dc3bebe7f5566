"""Read .onnx files of any origin and say what is in them; needs onnx, but no torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.external_data_helper import uses_external_data

from resx.errors import ResxError, UsageError
from resx.export.quantised_graph import recognise


def read_model(path: Path, *, external_data: bool = True) -> ModelProto:
    """Read an .onnx file, with the weights that lie beside it.

    Raises:
        UsageError: the file is missing, truncated or no ONNX model, or its external data are not there.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.node or not model.graph.output:
            raise UsageError(f"{path}: not an ONNX model, or one without a graph; export it again")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except ResxError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: truncated or not an ONNX model ({type(error).__name__}); copy it again") from error
    if external_data:
        _read_external(model, path)
    return model


def external_files(model: ModelProto, path: Path) -> list[Path]:
    """Return the files beside `path` that hold the model's weights; they may not be there."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and uses_external_data(tensor)
    }
    return [path.parent / name for name in sorted(names)]


def _read_external(model: ModelProto, path: Path) -> None:
    missing = [file for file in external_files(model, path) if not file.is_file()]
    if missing:
        raise UsageError(f"{path}: its weights lie in {missing[0].name}, which is not beside it; copy that file too")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise UsageError(f"{path}: its external data cannot be read ({error}); copy them again") from error


def describe_file(path: Path) -> dict[str, object]:
    """Return what a .onnx file takes and gives, its operators and what resx wrote into it.

    Raises:
        UsageError: the file is missing or is no ONNX model, or its external data are not there.
    """
    model = read_model(path)
    num_weights, num_half = weight_counts(model)
    quantised = recognise(model)
    return {
        "inputs": [tensor_text(value) for value in model.graph.input],
        "outputs": [tensor_text(value) for value in model.graph.output],
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": operators(model),
        "weights": num_weights,
        "fp16_share": num_half / max(1, num_weights),
        "quantized": quantised.text if quantised else None,
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


def tensor_text(value: onnx.ValueInfoProto) -> str:
    """Return `name TYPE [dims]`."""
    tensor = value.type.tensor_type
    dims = ", ".join(
        dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim
    )
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)} [{dims}]"


def weight_counts(model: ModelProto) -> tuple[int, int]:
    """Return (stored weight values, those stored in 16 bits); constants such as shapes do not count."""
    sizes = [(onnx.numpy_helper.to_array(tensor).size, tensor.data_type) for tensor in model.graph.initializer]
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    weights = [(size, kind) for size, kind in sizes if kind in (onnx.TensorProto.FLOAT, *halves)]
    half = sum(size for size, kind in weights if kind in halves)
    return sum(size for size, _ in weights), half


def operators(model: ModelProto) -> dict[str, int]:
    """Count the operators of a graph."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
