"""What a user says of a request's tensor where the model leaves it open: its shape (`--shape`), or itself (`--data`).

`--shape NAME:D1,D2` is perf_analyzer's: the input's name and its axes without the batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from resx.errors import UsageError
from resx.repository.image_endpoint import takes_a_file
from resx.repository.interface import MAX_REQUEST_BYTES, Interface

ROWS_SUFFIX: Final = ".npy"
_MAX_AXIS = 2**31
_SHAPE = re.compile(r"(.+):(\d{1,10}(?:,\d{1,10})*)")
_REMEDY = "`numpy.save` writes one"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What was said; nothing by default."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Axes without the batch, by the input's name."""
    rows: Path | None = None
    """An array [N, ...] in numpy's format: N inputs."""

    @classmethod
    def read(cls, shapes: Sequence[str], data: Path | None) -> Self:
        """Read the options; a `--data` that is no .npy file is a folder of images, and none of these.

        Raises:
            UsageError: a shape is not NAME:D1,D2, or given twice.
        """
        found: dict[str, tuple[int, ...]] = {}
        for text in shapes:
            match = _SHAPE.fullmatch(text)
            axes = tuple(map(int, match[2].split(","))) if match else ()
            if match is None or not all(1 <= axis <= _MAX_AXIS for axis in axes):
                raise UsageError(f"--shape {text}: give the input's name and shape, as in --shape image:3,224,224")
            if match[1] in found:
                raise UsageError(f"--shape {text}: {match[1]} is given twice; give one shape per input")
            found[match[1]] = axes
        return cls(shapes=found, rows=data if data is not None and data.suffix == ROWS_SUFFIX else None)

    def require_used(self, interfaces: Mapping[str, Interface]) -> None:
        """Check that each shape is of an input that one of the models has.

        Raises:
            UsageError: it is not.
        """
        known = {interface.input_name for interface in interfaces.values()}
        if unknown := sorted(self.shapes.keys() - known):
            has = "; ".join(f"{model} takes {interface.input_name}" for model, interface in interfaces.items())
            raise UsageError(f"--shape {unknown[0]}: no measured model has this input; {has}")

    def close(self, model: str, interface: Interface) -> tuple[Interface, npt.NDArray[Any] | None]:
        """Return what a model takes with every axis said, and the inputs [N, ...] of the file, if there is one.

        Raises:
            UsageError: an axis stays open, a shape or the file does not fit the model, or the file cannot be read.
        """
        if takes_a_file(interface):
            if self.rows is not None or interface.input_name in self.shapes:
                raise UsageError(f"{model}: accepts image files; remove --shape, or set --data to a folder of images")
            return interface, None
        shape = self.shapes.get(interface.input_name)
        rows = None if self.rows is None else read_rows(self.rows, model, interface)
        if rows is not None:
            if shape not in {None, rows.shape[1:]}:
                raise UsageError(f"--shape: {self.rows} has inputs {[*rows.shape[1:]]}; remove --shape")
            shape = rows.shape[1:]
        if shape is not None and not _fits(shape, interface):
            raise UsageError(f"--shape {_shape_text(interface.input_name, shape)}: {_takes(model, interface)}")
        closed = interface if shape is None else replace(interface, input_dims=shape)
        _require_closed(model, closed, has_rows=rows is not None)
        return closed, rows


NOTHING_SAID: Final = Inputs()


def read_rows(path: Path, model: str, interface: Interface) -> npt.NDArray[Any]:
    """Return a file's array [N, ...], which stays on the disk until its rows are taken.

    Raises:
        UsageError: it is no such file, or its rows are not what the model takes.
    """
    kind = _numpy_type(interface)
    try:
        rows: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # reads no pickles
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror or error}; give a .npy file") from error
    except (ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise UsageError(f"--data {path}: not a numpy array, or an array of Python objects; {_REMEDY}") from error
    is_text = interface.input_type == "BYTES"
    if rows.dtype.kind not in "SU" if is_text else rows.dtype != kind:
        wanted = "strings" if is_text else np.dtype(kind).name
        raise UsageError(f"--data {path}: has type {rows.dtype.name}, and {model} takes {wanted}; save it as {wanted}")
    if rows.ndim == 0 or not len(rows) or not _fits(rows.shape[1:], interface):
        raise UsageError(f"--data {path}: an array {[*rows.shape]}; {_takes(model, interface)}, a row for each input")
    return rows


def as_sent(rows: npt.NDArray[Any], interface: Interface) -> npt.NDArray[Any]:
    """Return rows of a file in memory, strings as the objects that tritonclient takes."""
    if interface.input_type != "BYTES":
        return np.ascontiguousarray(rows)
    texts = [text.encode() if isinstance(text, str) else bytes(text) for text in rows.ravel()]
    sent = np.empty(len(texts), np.object_)
    sent[:] = texts
    return sent.reshape(rows.shape)


def random_input(interface: Interface, shape: Sequence[int], seed: int) -> npt.NDArray[Any]:
    """Return noise of the model's type: pixels, normal numbers, or zeros and ones, which are indices and masks too.

    Raises:
        UsageError: resx makes nothing of that type.
    """
    kind, random = np.dtype(_numpy_type(interface)), np.random.default_rng(seed)
    if kind == np.uint8:
        return random.integers(0, 256, size=shape, dtype=np.uint8)
    if kind.kind == "f":
        return random.standard_normal(shape, dtype=np.float32).astype(kind, copy=False)
    return random.integers(0, 2, size=shape).astype(kind)


def _require_closed(model: str, interface: Interface, *, has_rows: bool) -> None:
    name, dims = interface.input_name, interface.input_dims
    if interface.input_type == "BYTES" and not has_rows:
        raise UsageError(f"{model}: input {name} takes strings {[*dims]}; give them with --data FILE.npy")
    if 0 in dims:
        raise UsageError(f"{model}: input {name} {[*dims]} is an empty tensor, which cannot be measured")
    if min(dims, default=1) < 1:
        example = [
            "3" if axis < 0 and place == len(dims) - 3 else "224" if axis < 0 else str(axis)
            for place, axis in enumerate(dims)
        ]
        raise UsageError(
            f"{model}: input {name} {[*dims]} has a dynamic axis; give its shape, as in --shape {name}:"
            f"{','.join(example)}, or inputs with --data FILE.npy"
        )
    if 8 * math.prod(dims) > MAX_REQUEST_BYTES:
        raise UsageError(f"{model}: an input {[*dims]} is above {MAX_REQUEST_BYTES // 2**20} MiB; give a smaller shape")


def _fits(shape: Sequence[int], interface: Interface) -> bool:
    dims = interface.input_dims
    return len(shape) == len(dims) and all(
        axis >= 1 and known in {-1, axis} for axis, known in zip(shape, dims, strict=True)
    )


def _takes(model: str, interface: Interface) -> str:
    return f"{model} takes {interface.input_name} {[*interface.input_dims]}"


def _shape_text(name: str, shape: Sequence[int]) -> str:
    return f"{name}:{','.join(map(str, shape))}"


def _numpy_type(interface: Interface) -> Any:
    from tritonclient.utils import triton_to_np_dtype

    if (kind := triton_to_np_dtype(interface.input_type)) is None:
        raise UsageError(f"the model takes {interface.input_type}, which resx cannot send; use tritonclient")
    return kind
