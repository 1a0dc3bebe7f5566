"""Ask a model that has no card one question before it is called ready: nothing else shows that it answers at all.

It gets zeros in the shapes of its own configuration, and must answer tensors of the types and shapes that stand there.
Where a shape is open, or a string is asked for, nobody knows what it takes: then a few sizes are tried, and only a lost
process or no answer at all counts against it. Not asked are models that answer a request several times, that keep a
state between requests, or whose input is a shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import MissingCapability, ServerBusy, ServerError
from resx.repository.image_endpoint import OWNER
from resx.repository.interface import MAX_REQUEST_BYTES, Unexpected
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import ModelProcessLost, NoAnswerInTime

_SIZES = (1, 32, 224)
"""For an axis that is open."""
_PNG = np.frombuffer(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
        "0000000a4944415478da6368000000820081da45083b0000000049454e44ae426082"
    ),
    np.uint8,
)
"""One grey pixel, for a model that takes a file's bytes."""


def require_answer(client: TritonClient, name: str, version: int | None) -> None:
    """Ask a loaded version once.

    Raises:
        ServerError: it gives no answer, or another one than its configuration says.
        MissingCapability: the server is gone.
    """
    config = client.config(name)
    given, made = config.get("input") or [], config.get("output") or []
    is_odd = any(tensor.get("is_shape_tensor") for tensor in (*given, *made))
    if is_odd or "sequence_batching" in config or config.get("model_transaction_policy", {}).get("decoupled"):
        return
    asked = [tensor for tensor in given if not tensor.get("optional")]
    is_open = any(_is_open(tensor) for tensor in asked)
    is_judged = not is_open or OWNER in config.get("parameters", {})
    for size in _SIZES if is_open else _SIZES[:1]:
        try:
            _ask(
                client, name, version, config, {str(one.get("name")): (one, _input(one, config, size)) for one in asked}
            )
            return
        except (ModelProcessLost, NoAnswerInTime, MissingCapability):
            raise
        except ServerBusy:  # it has others to answer
            return
        except (ServerError, Unexpected) as error:
            if is_judged and (size == _SIZES[-1] or not is_open):
                raise ServerError(f"{name} does not answer a first request: {error}") from error


def _ask(
    client: TritonClient,
    name: str,
    version: int | None,
    config: Mapping[str, Any],
    given: Mapping[str, tuple[Mapping[str, Any], npt.NDArray[Any]]],
) -> None:
    """Ask for each output.

    Raises:
        ServerError: the server's reason.
        Unexpected: an output is not as the configuration says.
    """
    tensors = {key: (_type(tensor), array) for key, (tensor, array) in given.items()}
    for output in config.get("output") or []:
        found = client.ask(name, tensors, str(output.get("name")), version)
        wanted = [1] * (int(config.get("max_batch_size", 0)) > 0) + [int(dim) for dim in output.get("dims", [])]
        fits = len(wanted) == len(found.shape) and all(
            want in (-1, got) for want, got in zip(wanted, found.shape, strict=True)
        )
        if found.datatype != _type(output) or not fits:
            raise Unexpected(
                f"{output.get('name')} is {found.datatype} {list(found.shape)}; its configuration says {_type(output)} "
                f"{wanted}"
            )
        _ = found.texts() if found.datatype == "BYTES" else found.values()


def _type(tensor: Mapping[str, Any]) -> str:
    """Return a tensor's type as requests have it."""
    name = str(tensor.get("data_type", "")).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _is_open(tensor: Mapping[str, Any]) -> bool:
    return _type(tensor) == "BYTES" or any(int(dim) < 1 for dim in tensor.get("dims", []))


def _input(tensor: Mapping[str, Any], config: Mapping[str, Any], size: int) -> npt.NDArray[Any]:
    """Return zeros for an input, and a picture for one that may take a file.

    Raises:
        ServerError: they would not fit into a request.
    """
    from tritonclient.utils import triton_to_np_dtype

    dims: Sequence[int] = [int(dim) for dim in tensor.get("dims", [])]
    axes = [1] if int(config.get("max_batch_size", 0)) > 0 else []
    if _type(tensor) == "UINT8" and list(dims) == [-1]:
        return _PNG.reshape((*axes, -1))
    shape = (*axes, *(size if dim < 1 else dim for dim in dims))
    kind = triton_to_np_dtype(_type(tensor))
    if kind is None or 8 * float(np.prod(shape, dtype=float)) > MAX_REQUEST_BYTES:
        raise ServerError(f"its input {tensor.get('name')} {list(shape)} of {_type(tensor)} cannot be sent")
    return np.full(shape, b"", np.object_) if _type(tensor) == "BYTES" else np.zeros(shape, kind)
