"""What a model file takes and gives, as config.pbtxt says it; the same for every Python backend of this package."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DEFAULT_MAX_BATCH = 4
"""Of a model whose file allows batches and whose config.pbtxt does not say; the number of NVIDIA's C++ backend."""


class TensorFacts(NamedTuple):
    """What a model file says of an input or output."""

    name: str
    data_type: str
    """Triton's."""
    shape: tuple[int, ...]
    """-1 where any size will do."""
    refusal: str = ""
    """Why it cannot be served; empty if it can."""


def type_facts(name: str, kind: str, shape: tuple[int, ...], types: Mapping[str, str]) -> TensorFacts:
    """Return a tensor's facts; `types` maps the runtime's names of the types that can be served to Triton's."""
    refusal = "" if kind in types else f"{name} is a {kind}; this backend serves {', '.join(types)}"
    return TensorFacts(name, types.get(kind, ""), shape, refusal)


def model_path(folder: str, config: dict[str, Any], usual: str) -> str:
    """Return the file that a version's folder holds: config.pbtxt's default_model_filename, or the usual one.

    Raises:
        ValueError: the name leads out of the folder, or there is no such file.
    """
    name = config.get("default_model_filename") or usual
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"default_model_filename {name!r} points outside the version's folder")
    path = Path(folder) / name
    return str(path / usual if path.is_dir() else path)


def require_file(path: str) -> None:
    """Check that a version's file is there.

    Raises:
        ValueError: it is not.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; set default_model_filename in config.pbtxt")


def complete(
    config: dict[str, Any], inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts], max_batch_size: int
) -> None:
    """Write a file's inputs and outputs, its largest batch and the batcher into the configuration.

    Raises:
        ValueError: config.pbtxt asks for batches and the file has a fixed first axis, or a type cannot be served.
    """
    batches = all(tensor.shape and tensor.shape[0] == -1 for tensor in (*inputs, *outputs))
    if config.get("max_batch_size", 0) and not batches:
        raise ValueError(
            f"max_batch_size: {config['max_batch_size']}, but the first axis of an input or output is fixed; write 0"
        )
    if batches and not config.get("max_batch_size"):
        config["max_batch_size"] = max_batch_size
    if config["max_batch_size"] > 1 and "sequence_batching" not in config:
        config.setdefault("dynamic_batching", {})
    for key, tensors in (("input", inputs), ("output", outputs)):
        if not config.get(key):
            config[key] = [_described(tensor, batches=batches) for tensor in tensors]


def require_names(what: str, configured: list[str], tensors: Sequence[TensorFacts], path: str) -> None:
    """Check that a file has the inputs or outputs that config.pbtxt names, of types that can be served.

    Raises:
        ValueError: it has not.
    """
    known = [tensor.name for tensor in tensors]
    if unknown := [name for name in configured if name not in known]:
        raise ValueError(f"config.pbtxt names {what} {unknown}, but {path} has {known}")
    for tensor in tensors:
        if tensor.name in configured:
            _require_served(tensor)


def _require_served(tensor: TensorFacts) -> None:
    if tensor.refusal:
        raise ValueError(tensor.refusal)


def _described(tensor: TensorFacts, *, batches: bool) -> dict[str, Any]:
    _require_served(tensor)
    dims = list(tensor.shape[1 if batches else 0 :])
    described = {"name": tensor.name, "data_type": tensor.data_type, "dims": dims or [1]}
    # Triton has no empty dims: one number per row is dims 1, which it takes away again.
    return described | {"reshape": {"shape": []}} if batches and not dims else described
