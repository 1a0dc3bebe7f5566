"""Read .onnx files of any origin and say what is in them; needs onnx, but no torch."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto

from resx.card.quantised_graph import recognise
from resx.errors import ExportError, UsageError
from resx.runtimes.external_data import external_files, read_external, require_loadable, require_within_limit
from resx.zoo.spec import Channels, parse_channels

MEAN_KEY, STD_KEY = "resx.mean", "resx.std"
"""Metadata in which resx writes how the input is normalized."""


def read_model(path: Path, *, external_data: bool = True) -> ModelProto:
    """Read an .onnx file, with the weights that lie beside it.

    A size of an input or output that is 0 or below is left out: old converters write so what they do not know.

    Raises:
        UsageError: the file is missing, truncated, no ONNX model or above 2 GB, or its external data are not there.
    """
    model = _read_graph(path)
    _open_unknown_sizes(model)
    if external_data:
        read_external(model, path)
    return model


def _read_graph(path: Path) -> ModelProto:
    if not path.is_file():
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give an .onnx file")
    require_within_limit(path.stat().st_size, str(path))
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:
        raise UsageError(f"{path}: truncated or not an ONNX model ({type(error).__name__}); copy it again") from error
    if not model.graph.node or not model.graph.output:
        raise UsageError(f"{path}: not an ONNX model, or it has no graph; export it again")
    return model


def write_model(model: ModelProto, path: Path) -> None:
    """Write a model to a file, the same bytes for the same model.

    Raises:
        ExportError: it does not fit into one file.
    """
    try:
        content = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf has no class of its own for it
        raise ExportError(f"{path.name}: cannot be written: {error}; an ONNX file holds 2 GB at most") from error
    path.write_bytes(content)


def files_of(path: Path) -> list[Path]:
    """Return a file and those that its weights lie in, of a model that can be loaded.

    Raises:
        UsageError: as `read_model`.
    """
    model = read_model(path, external_data=False)
    require_loadable(model, path)
    return [path, *external_files(model, path)]


def runnable(path: Path) -> str | bytes:
    """Return what onnxruntime opens: the path, or the model itself where onnxruntime would read the file otherwise.

    That is where weights lie beside it (which links are followed depends on the version), or an unknown size is 0.

    Raises:
        UsageError: as `read_model`.
    """
    model = _read_graph(path)
    has_zero = _open_unknown_sizes(model)
    if not has_zero and not external_files(model, path):
        return str(path)
    read_external(model, path)
    return model.SerializeToString()


def given_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that a caller must give: before IR version 4 every weight was an input too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _open_unknown_sizes(model: ModelProto) -> bool:
    """Leave out what cannot be a size; say whether a 0 was among it."""
    dims = [dim for value in (*given_inputs(model), *model.graph.output) for dim in value.type.tensor_type.shape.dim]
    unknown = [dim for dim in dims if dim.HasField("dim_value") and dim.dim_value < 1]
    has_zero = any(dim.dim_value == 0 for dim in unknown)
    for dim in unknown:
        dim.Clear()
    return has_zero


def describe_file(path: Path) -> dict[str, object]:
    """Return what a .onnx file takes and gives, its operators and what resx wrote into it; weights are not read.

    Raises:
        UsageError: the file is missing or is no ONNX model, or its external data are not there.
    """
    model = read_model(path, external_data=False)
    external_files(model, path)
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


def written_channels(model: ModelProto, key: str, path: Path) -> Channels | None:
    """Return the mean or standard deviation that a file's metadata name, None where they do not.

    Raises:
        UsageError: they are no three numbers to normalize with; foreign metadata may hold anything.
    """
    text = {entry.key: entry.value for entry in model.metadata_props}.get(key)
    try:
        return None if text is None else parse_channels(key, text, is_std=key == STD_KEY)
    except UsageError as error:
        option = key.replace("resx.", "--")
        raise UsageError(f"{path}: metadata {error}; fix the file, or export it with {option}") from None


def opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model asks for; 0 where it names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def declared_dims(value: ValueInfoProto) -> list[int | None]:
    """Return the declared shape; None for an axis that may have any size."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def tensor_text(value: onnx.ValueInfoProto) -> str:
    """Return `name TYPE [dims]`."""
    if not value.type.HasField("tensor_type"):
        return f"{value.name} {(value.type.WhichOneof('value') or 'untyped').removesuffix('_type')}"
    tensor = value.type.tensor_type
    dims = ", ".join(
        dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim
    )
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)} [{dims}]"


def weight_counts(model: ModelProto) -> tuple[int, int]:
    """Return (stored weight values, those stored in 16 bits); constants such as shapes do not count."""
    sizes = [(math.prod(tensor.dims), tensor.data_type) for tensor in model.graph.initializer]
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    weights = [(size, kind) for size, kind in sizes if kind in (onnx.TensorProto.FLOAT, *halves)]
    half = sum(size for size, kind in weights if kind in halves)
    return sum(size for size, _ in weights), half


def operators(model: ModelProto) -> dict[str, int]:
    """Count the operators of a graph."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
