"""What a served model takes and gives, by its configuration; with bounds, as a server may say anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, Final

from resx.errors import UsageError

LAYOUT: Final = "resx.layout"
"""The parameter that says where an image's channels lie; absent where they are first."""
MAX_REQUEST_BYTES: Final = 2**30
MAX_CLASSES: Final = 2**24
MAX_SIDE: Final = 16384
_MAX_PIXELS = 64_000_000
_MAX_BATCH, _MAX_DIM = 2**16, 2**31
_MESSAGE_LENGTH = 1000


class Unexpected(ValueError):  # noqa: N818 - translated by the client
    """An answer that is not what was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What a served model takes and gives, from its configuration."""

    input_name: str
    input_type: str
    """Triton's name in a request: UINT8, FP32, BYTES for strings."""
    output_name: str
    num_classes: int
    """Values for a row; 0 where the configuration leaves it open."""
    input_dims: tuple[int, ...]
    """Without the batch axis; -1 where it is open."""
    max_batch_size: int
    fixed_batch: bool = False
    """Whether every request must have exactly `max_batch_size` rows."""
    has_cache: bool = False
    """Whether the server may answer from its response cache."""
    parameters: Mapping[str, str]

    @property
    def has_random_weights(self) -> bool:
        """Whether its configuration says that nobody trained it, so that its predictions mean nothing."""
        return self.parameters.get("resx.weights") == "random"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels.

        Raises:
            UsageError: the model takes no RGB images, or larger ones than resx prepares.
        """
        is_last = self.parameters.get(LAYOUT) == "nhwc"
        form = "[H, W, 3]" if is_last else "[3, H, W]"
        if len(self.input_dims) != 3 or self.input_dims[2 if is_last else 0] != 3 or min(self.input_dims) < 1:
            raise UsageError(
                f"the model takes {list(self.input_dims)}, not RGB images {form}; send it tensors with tritonclient"
            )
        height, width = self.input_dims[:2] if is_last else self.input_dims[1:]
        if max(height, width) > MAX_SIDE or height * width > _MAX_PIXELS:
            raise UsageError(
                f"the model takes images of {height} x {width} pixels; resx sends up to {MAX_SIDE} per side and "
                f"{_MAX_PIXELS:,} in all"
            )
        return height, width

    def num_rows(self, sent: Sized) -> int:
        """Return how many rows a request has; a model without a batch axis takes all of it for one."""
        return len(sent) if self.max_batch_size else 1

    def request_shape(self, num_rows: int) -> tuple[int, ...]:
        """Return the shape of a request of so many rows.

        Raises:
            UsageError: an axis is open, or the request would not fit into memory.
        """
        shape = (num_rows, *self.input_dims) if self.max_batch_size else self.input_dims
        if min(self.input_dims, default=1) < 1:
            raise UsageError(
                f"the model takes {list(self.input_dims)}, with a dynamic axis; send tensors with tritonclient"
            )
        if 4 * math.prod(shape) > MAX_REQUEST_BYTES:
            raise UsageError(
                f"a request of {list(shape)} values is above {MAX_REQUEST_BYTES // 2**20} MiB; send fewer rows per "
                "request"
            )
        return shape


def interface_of(model: str, config: Mapping[str, Any]) -> Interface:
    """Return what a model takes and gives by its configuration, as Triton's JSON.

    Raises:
        UsageError: it takes more than one tensor.
        Unexpected: it is no configuration of a model.
    """
    given, made = config.get("input") or [], config.get("output") or []
    if not given or not made:
        raise Unexpected(f"a configuration of {model} without {'input' if not given else 'output'}")
    if len(given) != 1:
        names = ", ".join(str(tensor.get("name")) for tensor in given)
        raise UsageError(f"{model}: takes {names}; resx sends one tensor: use tritonclient for it")
    largest = int(config.get("max_batch_size", 0))
    dims, output_dims = (_dims(model, tensor) for tensor in (given[0], made[0]))
    fixed = largest == 0 and len(dims) > 1
    rows = max(1, dims[0]) if fixed else largest
    num_classes = math.prod(max(0, dim) for dim in (output_dims[1:] if fixed else output_dims))
    kind = str(given[0].get("data_type", "")).removeprefix("TYPE_")
    if not 0 <= rows <= _MAX_BATCH:
        raise Unexpected(f"a configuration of {model} with batches of {rows}; resx sends up to {_MAX_BATCH}")
    if num_classes > MAX_CLASSES:
        raise Unexpected(f"{num_classes:,} values a row of {model}; resx reads up to {MAX_CLASSES:,}")
    return Interface(
        input_name=_name(given[0]),
        input_type="BYTES" if kind == "STRING" else kind,
        output_name=_name(made[0]),
        num_classes=num_classes,
        input_dims=tuple(dims[1:] if fixed else dims),
        max_batch_size=rows,
        fixed_batch=fixed,
        has_cache=bool(config.get("response_cache", {}).get("enable")),
        parameters={key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()},
    )


def shorten(text: object) -> str:
    """Return the first line of what a server said, cut where it goes on and on."""
    line = str(text).partition("\n")[0]
    return line if len(line) <= _MESSAGE_LENGTH else f"{line[:_MESSAGE_LENGTH]}..."


def _dims(model: str, tensor: Mapping[str, Any]) -> list[int]:
    dims = [int(dim) for dim in tensor.get("dims", [])]
    if any(not -1 <= dim <= _MAX_DIM for dim in dims) or len(dims) > 32:
        raise Unexpected(f"a tensor of {model} with the dims {shorten(dims)}")
    return dims


def _name(tensor: Mapping[str, Any]) -> str:
    if not (name := str(tensor.get("name", ""))):
        raise Unexpected("a tensor without a name")
    return name
