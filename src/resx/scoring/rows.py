"""From an image to its row: decoded and prepared as `resx query` does, scored, brought to the most likely classes.

An image that cannot be read is a row too: its classes are empty and `error` says why.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card.kinds import OutputKind
from resx.card.output_kind import as_shown
from resx.data.image_decoding import open_image
from resx.errors import UsageError, first_line
from resx.repository.config_pbtxt import output_kind_of
from resx.repository.interface import Interface
from resx.scoring.sources.source import Row
from resx.scoring.sources.uri import without_secrets
from resx.serving.client.image_queries import model_input
from resx.serving.client.server_errors import WrongAnswer
from resx.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

Compute: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""The model's output [N, classes] for a batch of its input."""
NOT_FINITE = "the model's answer is not finite"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is asked, and how its answers are read. It can be sent to another process."""

    name: str
    version: int
    sha256: str
    """Of the file; of a server's model, of its configuration."""
    interface: Interface
    labels: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """Rows of the largest batch, or of the only one that it takes."""
        return max(1, self.interface.max_batch_size)

    @property
    def output_kind(self) -> OutputKind:
        """What its answers are."""
        return output_kind_of(self.interface.parameters)

    def label(self, index: int) -> str:
        """Return a class's label; `class-N` where there is none, as `resx query` calls it."""
        return (self.labels[index] if index < len(self.labels) else "") or f"class-{index}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """One image as the model takes it [1, 3, H, W], or why not."""

    path: str
    x: npt.NDArray[Any] | None
    error: str | None = None


def prepare(row: Row, interface: Interface) -> Prepared:
    """Read, decode, resize and crop one image. Never raises: whatever is wrong with a file is its row's error."""
    try:
        with open_image(row.read(), row.path) as image:
            return Prepared(path=row.path, x=model_input([image], interface))
    except UsageError as error:
        reason = str(error).removeprefix(f"{row.path}: ")
    except OSError as error:
        # fsspec's has the name alone.
        missing = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else ""
        reason = error.strerror or missing or first_line(error)
    except Exception as error:  # a driver or a decoder may raise anything, and one file must not end the others
        reason = first_line(error, with_type=True)
    return Prepared(path=row.path, x=None, error=printable(without_secrets(reason)))


def score(batch: Sequence[Prepared], model: Model, compute: Compute, top: int) -> pa.Table:
    """Return a batch's rows: path, classes, labels, probabilities (or scores), error.

    Raises:
        ResxError: the model fails; what `compute` raises.
    """
    answers = iter(_answers([one.x for one in batch if one.x is not None], model, compute))
    classes: list[list[int]] = []
    shares: list[list[float]] = []
    errors: list[str | None] = []
    for one in batch:
        answer = next(answers) if one.x is not None else one.error
        row = None if answer is None or isinstance(answer, str) else answer
        error = answer if isinstance(answer, str) else None if row is None or np.isfinite(row).all() else NOT_FINITE
        best = np.argsort(-row, kind="stable")[:top] if row is not None and error is None else None
        classes.append([] if best is None else best.tolist())
        shares.append([] if row is None or best is None else row[best].tolist())
        errors.append(error)
    return _table([one.path for one in batch], classes, shares, errors, model)


def schema(kind: OutputKind) -> pa.Schema:
    """Return the columns of a row; the numbers are called what they are."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            ("classes", pa.list_(pa.int32())),
            ("labels", pa.list_(pa.string())),
            ("scores" if kind == "scores" else "probabilities", pa.list_(pa.float32())),
            ("error", pa.string()),
        ]
    )


def _answers(good: Sequence[npt.NDArray[Any]], model: Model, compute: Compute) -> list[npt.NDArray[np.float32] | str]:
    """Return a row for each image, or why there is none; a batch that is answered wrongly is asked one by one."""
    if not good:
        return []
    try:
        return list(as_shown(answer_rows(np.concatenate(good), model, compute), model.output_kind))
    except WrongAnswer as error:
        if len(good) == 1:
            return [printable(str(error))]
        return [one for x in good for one in _answers([x], model, compute)]


def answer_rows(x: npt.NDArray[Any], model: Model, compute: Compute) -> npt.NDArray[np.float32]:
    """Return the model's output [N, classes] for a batch of its input, filled up where it takes no other size.

    Raises:
        WrongAnswer: there is not a row for each image.
    """
    num_rows = len(x)
    if model.interface.fixed_batch:
        x = np.concatenate([x, np.repeat(x[-1:], model.batch_size - num_rows, axis=0)])
    answer = compute(x)
    if answer.ndim != 2 or len(answer) != len(x):
        raise WrongAnswer(f"{model.name} answered {len(x)} images with {len(answer)} rows")
    return answer[:num_rows]


def _table(
    paths: list[str], classes: list[list[int]], shares: list[list[float]], errors: list[str | None], model: Model
) -> pa.Table:
    import pyarrow as pa

    labels = [[model.label(index) for index in row] for row in classes]
    columns = schema(model.output_kind)
    arrays = [
        pa.array(values, field.type)
        for values, field in zip((paths, classes, labels, shares, errors), columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=columns)
