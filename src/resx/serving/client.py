"""One client for any Triton, over http or grpc: what resx asks of tritonclient, with resx's errors.

tritonclient has the same calls in two modules; which one answers is decided here and nowhere else. It is
imported on first use. One object serves one thread.
"""

from __future__ import annotations

import http.client
import importlib
import math
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from resx.errors import MissingCapability, ResxError, ServerBusy, ServerError, UsageError
from resx.listing import LABEL_RULE, is_label, one_line, printable
from resx.serving.address import (
    CONTROL_HEADER,
    CONTROL_KEY_VARIABLE,
    DEFAULT_PORTS,
    PROTOCOLS,
    Address,
    Protocol,
    parse_address,
)

__all__ = [
    "CONTROL_HEADER", "CONTROL_KEY_VARIABLE", "DEFAULT_PORTS", "PROTOCOLS", "Address", "Answer", "ConnectionLost",
    "Interface", "ModelProcessLost", "NoAnswerInTime", "NotLoaded", "Prediction", "Protocol", "TritonClient",
    "interface_of", "parse_address",
]  # fmt: skip

T = TypeVar("T")
_NOT_LOADED = ("unknown model", "is not found", "is not ready", "is not available")
# In the order of what they tell.
_TLS_TROUBLE = (
    "CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "WRONG_VERSION_NUMBER", "TSI_DATA_CORRUPTED", "handshake",
)  # fmt: skip
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
# What tritonclient sets itself, and a server that is back is tried again within a second rather than two minutes.
# `min_reconnect_backoff_ms` is really how long one try to connect may take: on a busy machine 100 ms are not enough,
# and a canary that is told UNAVAILABLE for that has the supervisor start a new server.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class ConnectionLost(MissingCapability):
    """No server answers there, or it closed the connection before it answered."""


class ModelProcessLost(ServerError):  # noqa: N818 - named after what happened
    """The server answers, but the process that computes the model died under it."""


class NoAnswerInTime(ServerError):  # noqa: N818 - named after what happened
    """The server did not answer within the client's time."""


class NotLoaded(UsageError):  # noqa: N818 - named after what happened
    """The server does not have that model or version loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The logits for one request, and which version gave them."""

    logits: npt.NDArray[np.float32]
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One class of one image."""

    label: str
    index: int
    logit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What a served model takes and gives, from its configuration."""

    input_name: str
    input_type: str
    """Triton's name: UINT8 or FP32."""
    output_name: str
    num_classes: int
    input_dims: tuple[int, ...]
    """Without the batch axis."""
    max_batch_size: int
    fixed_batch: bool = False
    """Whether every request must have exactly `max_batch_size` rows."""
    parameters: Mapping[str, str]

    @property
    def has_random_weights(self) -> bool:
        """Whether its configuration says that nobody trained it, so that its predictions mean nothing."""
        return self.parameters.get("resx.weights") == "random"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels.

        Raises:
            UsageError: the model takes no RGB images.
        """
        if len(self.input_dims) != 3 or self.input_dims[0] != 3:
            raise UsageError(
                f"the model takes {list(self.input_dims)}, not RGB images [3, H, W]; send it tensors with tritonclient"
            )
        return self.input_dims[1], self.input_dims[2]


def interface_of(model: str, config: Mapping[str, Any]) -> Interface:
    """Return what a model takes and gives by its configuration, as Triton's JSON.

    Raises:
        UsageError: it takes more than one tensor.
    """
    if len(config["input"]) != 1:
        names = ", ".join(tensor["name"] for tensor in config["input"])
        raise UsageError(f"{model}: takes {names}; resx sends one tensor: use tritonclient for it")
    sent, given = config["input"][0], config["output"][0]
    largest = int(config.get("max_batch_size", 0))
    dims, output_dims = ([int(dim) for dim in tensor["dims"]] for tensor in (sent, given))
    fixed = largest == 0 and len(dims) > 1
    return Interface(
        input_name=sent["name"],
        input_type=sent["data_type"].removeprefix("TYPE_"),
        output_name=given["name"],
        num_classes=math.prod(output_dims[1:] if fixed else output_dims),
        input_dims=tuple(dims[1:] if fixed else dims),
        max_batch_size=max(1, dims[0]) if fixed else largest,
        fixed_batch=fixed,
        parameters={key: value["string_value"] for key, value in config.get("parameters", {}).items()},
    )


class TritonClient:
    """A connection to one server."""

    def __init__(self, address: Address, *, timeout_s: float = 60.0, retries: int = 0) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            address: the server's.
            timeout_s: for one answer.
            retries: how often an inference, or the question for a model's interface, is sent again after its
                connection or the process behind it was lost, waiting 0.1 s, 0.2 s and so on to 2 s in between.
                These change nothing, so they may reach the server twice. Every other error, and every other
                call, is reported at once.
        """
        self.address = address
        self._timeout_s = timeout_s
        self._retries = retries
        self.num_sent_again = 0
        """Requests that were lost and repeated, each time counted."""
        self._module = importlib.import_module(f"tritonclient.{address.protocol}")
        self._headers = dict(address.headers)
        if address.protocol == "http":
            secure = {"ssl": True, "ssl_context_factory": address.tls.context} if address.tls else {}
            self._client = self._module.InferenceServerClient(
                address.host_port, connection_timeout=timeout_s, network_timeout=timeout_s, **secure
            )
            self._control = {CONTROL_HEADER: address.control_key} if address.control_key else {}
        else:
            secure = {"creds": address.tls.grpc_credentials()} if address.tls else {}
            self._client = self._module.InferenceServerClient(address.host_port, channel_args=_CHANNEL, **secure)
            # Triton reads a restricted protocol's key from metadata under this prefix.
            name = f"triton-grpc-protocol-{CONTROL_HEADER}"
            self._control = {name: address.control_key} if address.control_key else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. An open one would hold up the server's shutdown."""
        self._client.close()

    def server_version(self) -> str:
        """Return the server's version.

        Raises:
            MissingCapability: nothing answers there, or what answers is no inference server.
        """
        found = self._json(self._client.get_server_metadata, self._as_json())
        if not isinstance(found, Mapping) or "extensions" not in found:
            raise self._not_triton("no server metadata")
        return str(found["version"])

    def is_live(self) -> bool:
        """Say whether a server answers there."""
        try:
            return bool(self._call(self._client.is_server_live))
        except ResxError:
            return False

    def model_versions(self, state: str = "READY") -> dict[str, list[int]]:
        """Return the versions that are ready, by model; or those in another of Triton's states, like UNLOADING."""
        index = self._json(self._client.get_model_repository_index, self._as_json() | {"headers": self._control})
        entries = index.get("models", []) if isinstance(index, Mapping) else index
        found: dict[str, list[int]] = {}
        for entry in entries:
            if entry.get("state") == state:
                found.setdefault(entry["name"], []).append(int(entry["version"]))
        return {name: sorted(versions) for name, versions in sorted(found.items())}

    def is_model_ready(self, model: str) -> bool:
        """Say whether the server calls a model's newest version ready; its process may be dead all the same."""
        return bool(self._call(self._client.is_model_ready, {"model_name": model}))

    def is_ensemble(self, model: str) -> bool:
        """Say whether a loaded model only passes requests on to others."""
        return bool(self.config(model).get("platform") == "ensemble")

    def config(self, model: str) -> dict[str, Any]:
        """Return a model's configuration, with what the server completed.

        Raises:
            NotLoaded: it is not loaded.
        """
        found = self._json(self._client.get_model_config, self._of(model, None) | self._as_json())
        return dict(found.get("config", found))

    def interface(self, model: str, version: int | None = None) -> Interface:
        """Return what a model takes and gives.

        Raises:
            UsageError: the model is not loaded, takes more than one tensor, or cannot have that name.
        """
        if printable(model) != model:
            raise UsageError(f"{model}: no model's name has bytes that are no UTF-8; `resx status` lists the models")
        options = self._of(model, version) | self._as_json()
        found = self._patiently(lambda: self._json(self._client.get_model_config, options))
        return interface_of(model, found.get("config", found))

    def infer(self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None) -> Answer:
        """Return the logits [N, classes] for one request of images [N, 3, H, W]; more axes are flattened.

        Raises:
            ServerError: the answer's values cannot be shared among the images.
        """
        outputs = [self._output(interface.output_name)]
        result = self._infer(model, interface, images, version, outputs)
        logits = result.as_numpy(interface.output_name)
        if logits is None or logits.size % len(images):
            shape = "nothing" if logits is None else f"the shape {list(logits.shape)}"
            raise ServerError(f"{self.address}: {model} answered {len(images)} images with {shape}")
        return Answer(logits=logits.reshape(len(images), -1), version=int(self._response(result)["model_version"]))

    def classify(
        self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None
    ) -> list[list[Prediction]]:
        """Return per image all classes, most likely first, under the labels that the server knows.

        Uses Triton's classification extension, whose strings are `logit:index:label`. A model of a fixed batch
        has no batch axis to Triton, which then takes all its rows for one.
        """
        num_classes = interface.num_classes
        num_values = num_classes * (len(images) if interface.fixed_batch else 1)
        outputs = [self._output(interface.output_name, class_count=num_values)]
        result = self._infer(model, interface, images, version, outputs)
        texts = result.as_numpy(interface.output_name).reshape(-1, num_values)
        predictions = [[_prediction(text) for text in row] for row in texts]
        return _by_row(predictions[0], num_classes) if interface.fixed_batch else predictions

    def classify_file(self, endpoint: str, content: bytes) -> list[Prediction]:
        """Return all classes of a JPEG, PNG or WebP file, most likely first; the server decodes it.

        Args:
            endpoint: the model that takes files, `NAME_image`.
            content: the file's bytes.

        Raises:
            UsageError: the endpoint is not loaded, or the server cannot decode the file.
        """
        try:
            found = self._json(self._client.get_model_config, self._of(endpoint, None) | self._as_json())
        except UsageError as error:
            raise UsageError(f"{error}; `resx export --image-endpoint` makes one for a model") from error
        config = found.get("config", found)
        file, logits = config["input"][0], config["output"][0]
        if [int(dim) for dim in file["dims"]] != [-1]:
            raise UsageError(f"{endpoint}: does not take a file's bytes; `resx export --image-endpoint` makes one")
        request = self._module.InferInput(file["name"], [len(content)], "UINT8")
        request.set_data_from_numpy(np.frombuffer(content, np.uint8))
        outputs = [self._output(logits["name"], class_count=int(logits["dims"][-1]))]
        options = self._of(endpoint, None) | {"inputs": [request], "outputs": outputs}
        result = self._call(self._client.infer, options)
        return [_prediction(text) for text in result.as_numpy(logits["name"]).ravel()]

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load a model, or bring it to its newest version.

        Args:
            model: its name.
            config_json: in place of its config.pbtxt.
            files: in place of its folder, by `file:` and the path in it; with these, `config_json` is needed.
        """
        options = {"config": config_json, "files": None if files is None else dict(files)}
        self._call(self._client.load_model, {"model_name": model, "headers": self._control} | options)

    def unload(self, model: str) -> None:
        """Unload all versions of a model."""
        self._call(self._client.unload_model, {"model_name": model, "headers": self._control})

    def statistics(self, model: str, version: int | None = None) -> list[dict[str, Any]]:
        """Return Triton's own counters per loaded version, as its statistics extension words them."""
        found = self._json(self._client.get_inference_statistics, self._of(model, version) | self._as_json())
        return list(found["model_stats"])

    def register_shared_memory(self, name: str, key: str, num_bytes: int) -> None:
        """Let the server read a region of system shared memory on its own machine.

        Args:
            name: that requests will call it by.
            key: of the region, as shm_open takes it.
            num_bytes: from its beginning.

        Raises:
            ResxError: the server refuses.
        """
        options = {"name": name, "key": key, "byte_size": num_bytes, "headers": self._control}
        self._call(self._client.register_system_shared_memory, options)

    def unregister_shared_memory(self, name: str) -> None:
        """Let the server forget a region."""
        self._call(self._client.unregister_system_shared_memory, {"name": name, "headers": self._control})

    def _infer(
        self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None, outputs: Sequence[Any]
    ) -> Any:
        request = self._module.InferInput(interface.input_name, list(images.shape), interface.input_type)
        request.set_data_from_numpy(images)
        options = self._of(model, version) | {"inputs": [request], "outputs": list(outputs)}
        return self._patiently(lambda: self._call(self._client.infer, options))

    def _patiently(self, call: Callable[[], T]) -> T:
        for tries_before in range(self._retries):
            try:
                return call()
            except (ConnectionLost, ModelProcessLost):
                self.num_sent_again += 1
                time.sleep(min(FIRST_WAIT_S * 2**tries_before, LONGEST_WAIT_S))
        return call()

    def _output(self, name: str, **options: int) -> Any:
        return self._module.InferRequestedOutput(name, **options)

    def _response(self, result: Any) -> Mapping[str, Any]:
        return result.get_response(**self._as_json())

    def _as_json(self) -> dict[str, Any]:
        return {"as_json": True} if self.address.protocol == "grpc" else {}

    @staticmethod
    def _of(model: str, version: int | None) -> dict[str, Any]:
        return {"model_name": model, "model_version": "" if version is None else str(version)}

    def _json(self, call: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        try:
            return self._call(call, options)
        except ValueError as error:  # a web server that answers 200 with a page
            raise self._not_triton("no JSON") from error

    def _call(self, call: Callable[..., T], options: Mapping[str, Any] | None = None) -> T:
        from tritonclient.utils import InferenceServerException

        options = dict(options or {})
        options["headers"] = self._headers | options.get("headers", {})
        if self.address.protocol == "grpc":
            options["client_timeout"] = self._timeout_s
        try:
            return call(**options)
        except InferenceServerException as error:
            raise self._translated(error) from error
        except http.client.HTTPException as error:
            if type(error).__name__ == "HTTPConnectionClosed":  # geventhttpclient's
                raise self._unreachable("it closed the connection before it answered") from error
            raise self._not_triton(str(error)) from error
        except ssl.SSLError as error:
            raise self._insecure(str(error.reason or error)) from error
        except TimeoutError as error:  # not a lost connection: sent again, it would wait as long once more
            raise MissingCapability(str(self._unreachable(str(error) or "timed out"))) from error
        except (OSError, EOFError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _translated(self, error: Any) -> ResxError:
        message, status = str(error.message()).partition("\n")[0], str(error.status())
        if "restricted" in message or "expecting header" in message:
            return MissingCapability(
                f"{self.address}: control needs a key; set {CONTROL_KEY_VARIABLE} to the one it was started with"
            )
        if "maximum queue size" in message:
            return ServerBusy(f"{self.address}: its queue is full; send fewer requests at once, or later")
        if any(words in message for words in _NOT_LOADED):
            return NotLoaded(f"{self.address}: {message}; `resx deploy` loads a model, `resx status` lists them")
        if "UNAVAILABLE" in status:
            if self.address.tls and (trouble := [words for words in _TLS_TROUBLE if words in message]):
                return self._insecure(trouble[0])
            if "http1" in message.lower() or "http2" in message.lower() or "settings" in message.lower():
                return self._not_triton("no gRPC there")
            if "Socket closed" in message and "failed to connect" in message:
                return self._not_triton("it closes gRPC connections")
            refused = "Connection refused" in message
            return self._unreachable("connection refused" if refused else message)
        if "DEADLINE_EXCEEDED" in status:
            return NoAnswerInTime(f"{self.address}: no answer within {self._timeout_s:g} s")
        if "Stub process" in message and "not healthy" in message:
            return ModelProcessLost(f"{self.address}: {message}")
        if status in {"502", "503"}:
            return self._unreachable(f"status {status} of a proxy: it has no server behind it, or lost it")
        if status in {"401", "403", "407"} or "UNAUTHENTICATED" in status or "PERMISSION_DENIED" in status:
            return MissingCapability(
                f"{self.address}: refused ({status}); what it wants to be shown goes into RESX_HEADERS or --header"
            )
        if status in {"404", "405", "501"} or "UNIMPLEMENTED" in status or "decoding the response" in message:
            return self._not_triton(f"status {status}")
        return ServerError(f"{self.address}: {message}")

    def _not_triton(self, reason: str) -> MissingCapability:
        return MissingCapability(
            f"{self.address}: what answers there is not Triton ({reason}); check --url and --protocol"
        )

    def _insecure(self, reason: str) -> MissingCapability:
        if "verif" in reason.lower():
            remedy = "give the CA that signed its certificate by --ca or RESX_TLS_CA, and the host that it is made for"
        elif "CERTIFICATE_REQUIRED" in reason or "CORRUPTED" in reason:
            remedy = "it may want a certificate of ours: give --cert and --key"
        else:
            remedy = "if it speaks no TLS there, give grpc:// or http://"
        return MissingCapability(f"{self.address}: no secure connection ({reason}); {remedy}")

    def _unreachable(self, reason: str) -> ConnectionLost:
        ours = self.address.host_port.startswith(("127.0.0.1:", "localhost:")) and self.address.tls is None
        remedy = "start one with `resx serve --detach`, or give --url" if ours else "check --url"
        if self.address.tls is None and ("closed" in reason or "reset" in reason):
            remedy += "; one that speaks TLS wants grpcs:// or https://"
        return ConnectionLost(f"{self.address}: no server answers ({reason}); {remedy}")


def _by_row(predictions: Sequence[Prediction], num_classes: int) -> list[list[Prediction]]:
    """Part the values of a whole batch, indexed over all of it, into its rows."""
    labels = {prediction.index: prediction.label for prediction in predictions if prediction.index < num_classes}
    rows: list[list[Prediction]] = [[] for _ in range(len(predictions) // num_classes)]
    for prediction in predictions:
        row, index = divmod(prediction.index, num_classes)
        rows[row].append(Prediction(label=labels[index], index=index, logit=prediction.logit))
    return rows


def _prediction(text: bytes) -> Prediction:
    logit, index, *label = text.decode("utf-8", "backslashreplace").removesuffix("\r").split(":", 2)
    if label and label[0] and not is_label(label[0], with_tabs=True):
        raise ServerError(
            f"the server calls class {index[:20]} '{one_line(label[0][:100])}': {LABEL_RULE}; mend its labels.txt"
        )
    return Prediction(label=label[0] if label else f"class-{index}", index=int(index), logit=float(logit))
