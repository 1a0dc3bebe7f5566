"""The bytes of a request, made once before the load, and what an answer's bytes say.

tritonclient writes and reads them, so that they are what its users send; but it is not asked for each request, as
that costs more CPU time than the rest of the client does.

Sources: github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md; KServe's
open_inference_grpc.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from resx._version import __version__
from resx.errors import ServerError
from resx.repository.interface import Interface
from resx.serving.client import answers
from resx.serving.client.address import Address

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedInput:
    """Where a request's tensor lies, if the server reads it from shared memory."""

    region: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The model that is asked."""

    address: Address
    model: str
    version: int | None
    """None: the newest that the server has loaded."""
    answering: int
    """The version that answered when the server was asked for the model."""
    interface: Interface
    rows: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)
    """Inputs [N, ...] of the user's own that requests take in turn."""
    owner: Target | None = None
    """The model behind an image endpoint, which takes the pixels of the files that are sent."""
    label: str = ""
    """What tells it apart from the other targets of a benchmark, where its name does not."""

    @property
    def name(self) -> str:
        """The label, or the model with its version where one was named."""
        return self.label or (self.model if self.version is None else f"{self.model}:{self.version}")


def requests(
    target: Target, payloads: Sequence[npt.NDArray[Any]], shared: Sequence[SharedInput] = ()
) -> tuple[bytes, ...]:
    """Return each payload's request as it goes over the wire: with HTTP's head, or a message of gRPC."""
    encode = _http_request if target.address.protocol == "http" else _grpc_request
    places: Sequence[SharedInput | None] = shared or [None] * len(payloads)
    return tuple(encode(target, payload, place) for payload, place in zip(payloads, places, strict=True))


def logits_of(target: Target, answer: bytes, batch_size: int) -> npt.NDArray[np.float32]:
    """Return the logits [N, classes] in an answer: HTTP's head and body, or a message of gRPC.

    Raises:
        ServerError: it is no answer to the request.
    """
    output = target.interface.output_name
    try:
        if target.address.protocol == "http":
            head, _, body = answer.partition(b"\r\n\r\n")
            length = _header(head, b"inference-header-content-length")
            found = answers.inference_of_http(body, None if length is None else str(length), output)
        else:
            from tritonclient.grpc import service_pb2

            found = answers.inference_of_grpc(service_pb2.ModelInferResponse.FromString(answer), output)
        return answers.logits_of(found, target.interface, batch_size).astype(np.float32)
    except Exception as error:  # protobuf's own errors have no base that is imported here
        raise ServerError(f"{target.address}: an unreadable answer ({error})") from error


def http_error(head_and_body: bytes) -> str:
    """Return the reason in an answer that is not 200."""
    head, _, body = head_and_body.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
    return f"{status}: {answers.error_text(body) or 'no reason given'}"


def content_length(head: bytes) -> int | None:
    """Return how many bytes follow an answer's head; None if it does not say."""
    return _header(head, b"content-length")


def _header(head: bytes, name: bytes) -> int | None:
    for line in head.lower().split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key == name and value.strip().isdigit() and len(value) < 20:
            return int(value)
    return None


def _http_request(target: Target, payload: npt.NDArray[Any], place: SharedInput | None) -> bytes:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    sent = InferInput(target.interface.input_name, list(payload.shape), target.interface.input_type)
    if place is None:
        sent.set_data_from_numpy(payload)
    else:
        sent.set_shared_memory(place.region, place.num_bytes, place.offset)
    output = InferRequestedOutput(target.interface.output_name, binary_data=True)
    body, json_length = InferenceServerClient.generate_request_body([sent], outputs=[output])
    version = "" if target.version is None else f"/versions/{target.version}"
    lines = [
        f"POST /v2/models/{quote(target.model, safe='')}{version}/infer HTTP/1.1",
        f"Host: {target.address.host_port}",
        f"User-Agent: resx/{__version__}",
        f"Content-Length: {len(body)}",
        "Content-Type: application/octet-stream",
        *([] if json_length is None else [f"Inference-Header-Content-Length: {json_length}"]),
        *(f"{name}: {value}" for name, value in target.address.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _grpc_request(target: Target, payload: npt.NDArray[Any], place: SharedInput | None) -> bytes:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(
        model_name=target.model, model_version="" if target.version is None else str(target.version)
    )
    tensor = message.inputs.add(
        name=target.interface.input_name, datatype=target.interface.input_type, shape=payload.shape
    )
    message.outputs.add(name=target.interface.output_name)
    if place is None:
        message.raw_input_contents.append(_content(target, payload))
    else:
        tensor.parameters["shared_memory_region"].string_param = place.region
        tensor.parameters["shared_memory_byte_size"].int64_param = place.num_bytes
        tensor.parameters["shared_memory_offset"].int64_param = place.offset
    return bytes(message.SerializeToString())


def _content(target: Target, payload: npt.NDArray[Any]) -> bytes:
    """Return a tensor's bytes as Triton reads them: strings have their lengths before them."""
    from tritonclient.utils import serialize_byte_tensor

    if target.interface.input_type == "BYTES":
        return bytes(serialize_byte_tensor(payload).item())
    return np.ascontiguousarray(payload).tobytes()
