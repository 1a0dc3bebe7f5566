"""Weights that lie beside an .onnx file, in files that it names.

The names come from whoever made the file, so they are resolved before anything is opened: a file of weights lies in
the folder of the .onnx file, or in the one that the .onnx file really is in where it is a link itself. That is how
Hugging Face's cache, `ln -s` and mounted volumes lay files out, and nothing else on the machine can be read.
onnxruntime has the same rule; onnx refuses every link and hard link, so the data are read here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import uses_external_data

from resx.errors import UsageError

_MOST_SHARED, _FREE_BYTES = 4, 2**20
"""Tensors may share their bytes, as tied weights do: four times what there is, and a little."""
LIMIT_BYTES = 2**31 - 1
"""Of one protobuf message, and so of a file with its weights inside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """Where one tensor's bytes are."""

    tensor: TensorProto
    file: Path
    offset: int
    size_bytes: int


def require_within_limit(size_bytes: int, what: str) -> None:
    """Check that a model fits into one ONNX file.

    Raises:
        UsageError: it does not.
    """
    if size_bytes > LIMIT_BYTES:
        raise UsageError(
            f"{what}: {size_bytes / 1e9:.1f} GB with its weights; an ONNX file can hold 2 GB (protobuf's limit); use a "
            "smaller model, or a lower precision"
        )


def external_files(model: ModelProto, path: Path) -> list[Path]:
    """Return the files that hold the weights of a model whose graph alone was read, sorted.

    Raises:
        UsageError: one is missing, too short, or lies outside the folder of `path`.
    """
    return sorted({piece.file for piece in _pieces(model, path)})


def require_loadable(model: ModelProto, path: Path) -> None:
    """Check that a model whose graph alone was read is within the limit with its weights.

    Raises:
        UsageError: it is not, or as `external_files`.
    """
    pieces = list(_pieces(model, path))
    named = sum(piece.size_bytes for piece in pieces)
    require_within_limit(path.stat().st_size + named, str(path))
    there = sum(file.stat().st_size for file in {piece.file for piece in pieces})
    if named > _MOST_SHARED * there + _FREE_BYTES:
        raise UsageError(
            f"{path}: its tensors take {named:,} bytes out of {there:,} that lie beside it, the same again and again; "
            "export the file again"
        )


def read_external(model: ModelProto, path: Path) -> None:
    """Put the weights beside the file into the model.

    Raises:
        UsageError: as `require_loadable`, before anything is read.
    """
    require_loadable(model, path)
    for piece in list(_pieces(model, path)):
        with piece.file.open("rb") as file:
            file.seek(piece.offset)
            piece.tensor.raw_data = file.read(piece.size_bytes)
        piece.tensor.data_location = TensorProto.DEFAULT
        del piece.tensor.external_data[:]


def _pieces(model: ModelProto, path: Path) -> Iterator[_Piece]:
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            written = {entry.key: entry.value for entry in tensor.external_data}
            file = _locate(written.get("location", ""), path)
            there = file.stat().st_size
            offset = _whole(written.get("offset", "0"), tensor, path)
            size = _whole(written.get("length", str(max(0, there - offset))), tensor, path)
            if offset + size > there:
                raise UsageError(
                    f"{path}: tensor {tensor.name} ends at byte {offset + size} of {file.name}, which has {there}; "
                    "copy that file again"
                )
            yield _Piece(tensor=tensor, file=file, offset=offset, size_bytes=size)


def _whole(text: str, tensor: TensorProto, path: Path) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UsageError(
            f"{path}: {text[:40]!r} of tensor {tensor.name} is not a number of bytes; export the file again"
        )
    return int(text)


def _locate(location: str, path: Path) -> Path:
    """Return the real file behind a name in the model."""
    parts = PurePosixPath(location).parts
    if not parts or "\0" in location or ".." in parts or PurePosixPath(location).is_absolute():
        raise UsageError(
            f"{path}: its external data cannot be read: {location!r} is not a file in the model's folder; save the "
            "model again with its data beside it"
        )
    homes = [path.parent.resolve(), path.resolve().parent]
    for home in homes:
        file = home / location
        real = file.resolve()
        if real.is_file():
            if not any(real.is_relative_to(allowed) for allowed in homes):
                raise UsageError(
                    f"{path}: its external data cannot be read: {path.parent / location} is a link to {real}, outside "
                    f"the model's folder; copy both without links: {_copying(path, location)}"
                )
            return real
    given = path.parent / location
    if given.is_symlink():
        raise UsageError(f"{path}: its weights {given} are a link to {given.readlink()}, which does not exist")
    raise UsageError(f"{path}: its weights are in {location}, which is missing; copy that file too")


def _copying(path: Path, location: str) -> str:
    return f"cp -L {shlex.quote(str(path))} {shlex.quote(str(path.parent / location))} FOLDER"


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor that a model holds, in graphs within graphs, attributes and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _of_graph(graph)
