"""What a server says, parsed into values with bounds: the one place where its words and numbers come in.

A server may be broken, of another kind, or hostile. Words (metadata, index, configuration, statistics) are read into
Triton's own protobuf messages, whichever way they came, so that every field has its type. Tensors must have the type,
the rows and the size that were asked for. Whatever does not fit is `Unexpected`, never a traceback.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from resx.errors import UsageError
from resx.repository.interface import Interface, Unexpected, shorten

MAX_WORDS_BYTES: Final = 8 * 2**20
"""Of an answer in words. The index of 10,000 models has less than one."""
MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Of an answer with tensors, beyond what the asked-for values take."""
MAX_VALUES_BYTES: Final = 256 * 2**20
"""Of the values that are asked for at once."""


class Refused(Exception):  # noqa: N818 - translated by the client
    """An answer that says no, as tritonclient's exception is one."""

    def __init__(self, message: str, *, status: str) -> None:
        super().__init__(message)
        self._message, self._status = message, status

    def message(self) -> str:
        """Return the server's reason."""
        return self._message

    def status(self) -> str:
        """Return HTTP's status."""
        return self._status


def json_kind(value: object) -> str:
    """Return what JSON calls a value of this kind."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def as_json(content: bytes) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: it is none, has a key twice or a number that JSON does not know, or is nested too deep.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def error_text(body: bytes) -> str:
    """Return the reason in the body of an answer that is not 200; empty if it gives none."""
    try:
        return str(as_json(body)["error"])
    except (ValueError, LookupError, TypeError):
        return ""


def words(found: Any, kind: str) -> dict[str, Any]:
    """Return an answer in words as Triton's JSON, checked against its protobuf message.

    Args:
        found: the message that came over gRPC, or the JSON value that came over HTTP.
        kind: the message's name in Triton's gRPC service.

    Raises:
        Unexpected: it is not such an answer.
    """
    from google.protobuf import json_format
    from tritonclient.grpc import service_pb2

    message = found
    if not hasattr(found, "DESCRIPTOR"):
        if not isinstance(found, Mapping):
            raise Unexpected(f"JSON with {json_kind(found)} instead of an object")
        message = getattr(service_pb2, kind)()
        try:
            json_format.ParseDict(found, message, ignore_unknown_fields=True)
        except (json_format.ParseError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise Unexpected(f"no {kind} of Triton's ({shorten(error)})") from error
    if message.ByteSize() > MAX_WORDS_BYTES:
        raise Unexpected(f"{message.ByteSize():,} bytes, where {MAX_WORDS_BYTES:,} are expected at most")
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """One output of an inference."""

    version: int
    datatype: str
    shape: tuple[int, ...]
    content: Any
    """The tensor's bytes, or what JSON or protobuf have in place of them."""

    def values(self) -> npt.NDArray[Any]:
        """Return the numbers, in the tensor's shape.

        Raises:
            Unexpected: they are no numbers, or not as many as the shape says.
        """
        from tritonclient.utils import triton_to_np_dtype

        kind = triton_to_np_dtype(self.datatype)
        if kind is None or np.dtype(kind).kind not in "fiub" or self.datatype == "BF16":
            raise Unexpected(f"a tensor of {shorten(self.datatype)} instead of numbers")
        size = np.dtype(kind).itemsize * math.prod(self.shape)
        if isinstance(self.content, bytes):
            if len(self.content) != size:
                raise Unexpected(f"{len(self.content):,} bytes for a tensor {list(self.shape)} of {size:,}")
            return np.frombuffer(self.content, kind).reshape(self.shape)
        try:
            found = np.asarray(self.content, kind).ravel()
        except (TypeError, ValueError, OverflowError) as error:
            raise Unexpected(f"no numbers of {self.datatype} ({shorten(error)})") from error
        if found.size != math.prod(self.shape):
            raise Unexpected(f"{found.size:,} numbers for a tensor {list(self.shape)}")
        return found.reshape(self.shape)

    def texts(self) -> list[str]:
        """Return the strings, whatever the shape.

        Raises:
            Unexpected: it is no tensor of strings.
        """
        if self.datatype != "BYTES":
            raise Unexpected(f"a tensor of {shorten(self.datatype)} instead of strings")
        if not isinstance(self.content, bytes):
            return [
                one.decode("utf-8", "backslashreplace") if isinstance(one, bytes) else str(one)
                for one in np.asarray(self.content, object).ravel()
            ]
        found, place = [], 0
        while place < len(self.content):
            length = int.from_bytes(self.content[place : place + 4], "little")
            place += 4
            if place + length > len(self.content):
                raise Unexpected("a string that runs past the end of its tensor")
            found.append(self.content[place : place + length].decode("utf-8", "backslashreplace"))
            place += length
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One class of one image."""

    label: str
    index: int
    logit: float


def inference_of_http(body: bytes, header_length: str | None, output: str) -> Inference:
    """Return an output of an answer over HTTP: JSON, and behind it the tensors' bytes.

    Raises:
        Unexpected: it is no such answer, or has no such output.
    """
    length = len(body) if header_length is None else _count(header_length)
    try:
        head = as_json(body[:length])
    except ValueError as error:
        raise Unexpected(f"not JSON ({shorten(error)})") from error
    place = length
    for tensor in _list(head, "outputs"):
        if not isinstance(tensor, Mapping):
            break
        parameters = tensor.get("parameters", {})
        size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
        begin = place
        place += 0 if size is None else _count(size)
        if tensor.get("name") == output:
            return Inference(
                version=_count(head.get("model_version")),
                datatype=str(tensor.get("datatype")),
                shape=tuple(_count(axis) for axis in _list(tensor, "shape")),
                content=tensor.get("data") if size is None else body[begin:place],
            )
    raise Unexpected(f"no output {output}")


def inference_of_grpc(message: Any, output: str) -> Inference:
    """Return an output of a ModelInferResponse.

    Raises:
        Unexpected: it has no such output.
    """
    for place, tensor in enumerate(message.outputs):
        if tensor.name == output:
            typed = [values for _, values in tensor.contents.ListFields()]
            content = message.raw_output_contents[place] if place < len(message.raw_output_contents) else None
            return Inference(
                version=_count(message.model_version),
                datatype=tensor.datatype,
                shape=tuple(_count(axis) for axis in tensor.shape),
                content=content if content is not None else list(typed[0]) if typed else b"",
            )
    raise Unexpected(f"no output {output}")


def logits_of(found: Inference, interface: Interface, num_rows: int) -> npt.NDArray[Any]:
    """Return the values [N, classes] for a request of so many rows; further axes are flattened.

    Raises:
        Unexpected: they are no numbers, or not those that were asked for.
    """
    values = found.values() if interface.max_batch_size else found.values().reshape(1, -1)
    if values.ndim == 0 or len(values) != num_rows:
        raise Unexpected(f"a tensor {list(values.shape)} for {num_rows} rows")
    rows = values.reshape(num_rows, -1) if values.size else values.reshape(num_rows, 0)
    if not rows.shape[1] or interface.num_classes not in {0, rows.shape[1]}:
        raise Unexpected(f"{rows.shape[1]} values per row; its configuration says {interface.num_classes or 'more'}")
    return rows


def predictions_of(found: Inference, num_rows: int, per_row: int) -> list[list[Prediction]]:
    """Return the classes of each row, from an answer of Triton's classification extension.

    Raises:
        Unexpected: it is no such answer, or does not have every class once.
    """
    predictions = [_prediction(text) for text in found.texts()]
    if len(predictions) != num_rows * per_row:
        raise Unexpected(f"{len(predictions)} classes; its configuration says {num_rows} x {per_row}")
    rows = [predictions[start : start + per_row] for start in range(0, len(predictions), per_row)]
    if any(len({prediction.index for prediction in row if prediction.index < per_row}) != per_row for row in rows):
        raise Unexpected("missing or repeated classes")
    return rows


def by_row(predictions: Sequence[Prediction], num_classes: int) -> list[list[Prediction]]:
    """Part the values of a whole batch, indexed over all of it, into its rows."""
    labels = {prediction.index: prediction.label for prediction in predictions if prediction.index < num_classes}
    rows: list[list[Prediction]] = [[] for _ in range(len(predictions) // num_classes)]
    for prediction in predictions:
        row, index = divmod(prediction.index, num_classes)
        rows[row].append(Prediction(label=labels[index], index=index, logit=prediction.logit))
    return rows


def answer_bytes(interface: Interface, num_rows: int) -> int:
    """Return how large an answer to so many rows can be.

    Raises:
        UsageError: larger than resx reads.
    """
    size = 8 * interface.num_classes * num_rows
    if size > MAX_VALUES_BYTES:
        raise UsageError(
            f"{num_rows} rows of {interface.num_classes:,} values are above {MAX_VALUES_BYTES // 2**20} MiB; send "
            "fewer rows per request"
        )
    return MAX_ANSWER_BYTES + size


def load_answer_bytes(interface: Interface, num_rows: int) -> int:
    """Return how large one of very many answers with values can be, many of which are held at once."""
    values = 8 * interface.num_classes * num_rows
    return 2**20 + values if interface.num_classes else MAX_ANSWER_BYTES


def _list(value: Any, key: str) -> Sequence[Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise Unexpected(f"no list of {key}")
    return found


def _count(value: Any) -> int:
    """Return a number from 0 to 2^53, or a text of one."""
    text = str(value)
    if isinstance(value, bool | float) or not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Unexpected(f"{shorten(repr(value))} instead of a number")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated key in an object")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _prediction(text: str) -> Prediction:
    """Read `logit:index:label`.

    Raises:
        Unexpected: it is none, or the logit is not finite.
    """
    logit, _, rest = text.removesuffix("\r").partition(":")
    index, _, label = rest.partition(":")
    try:
        value = float(logit)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not (index.isdecimal() and index.isascii() and len(index) < 10):
        raise Unexpected(f"{shorten(repr(text))} instead of a finite number, a class and its label")
    return Prediction(label=label or f"class-{index}", index=int(index), logit=value)
