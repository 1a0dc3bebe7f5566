"""One client for any Triton, over http or grpc, with resx's errors.

Over gRPC tritonclient asks, over HTTP `http_client`, which has the same calls; which one is decided here and nowhere
else. tritonclient is imported on first use. What a server says is believed only as far as `answers` can parse it. One
object serves one thread.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from resx.errors import MissingCapability, ResxError, ServerBusy, ServerError, UsageError
from resx.names import LABEL_RULE, is_label
from resx.repository.interface import Interface, Unexpected, interface_of, shorten
from resx.serving.client import answers, model_index
from resx.serving.client.address import (
    CONTROL_HEADER,
    CONTROL_KEY_VARIABLE,
    DEFAULT_PORTS,
    PROTOCOLS,
    Address,
    Protocol,
    parse_address,
)
from resx.serving.client.answers import Prediction
from resx.serving.client.http_client import HttpClient
from resx.serving.client.http_connection import NotHttp
from resx.serving.client.loopback import grpc_options, grpc_proxy, is_loopback, split_host
from resx.text import one_line, printable

__all__ = [
    "CONTROL_HEADER", "CONTROL_KEY_VARIABLE", "DEFAULT_PORTS", "PROTOCOLS", "Address", "Answer", "ConnectionLost",
    "Interface", "ModelProcessLost", "NoAnswerInTime", "NotLoaded", "Prediction", "Protocol", "TritonClient",
    "WrongAnswer", "interface_of", "parse_address",
]  # fmt: skip

T = TypeVar("T")
TIMEOUT_VARIABLE = "RESX_TIMEOUT_S"
"""Seconds after which an answer is given up, where that is earlier than the command's own limit."""
_ROWS = "rows of input"
"""Our backends' words for a model that gives another number of rows than it was asked for."""
_NO_CONTROL = "explicit model load / unload is not allowed"
_NOT_POLLED = "failed to poll from model repository"
"""Triton's words for a model that is not in its repository, and for one whose configuration cannot be parsed."""
_NOT_LOADED = ("unknown model", "is not found", "is not ready", "is not available")
# In the order of what they tell.
_TLS_TROUBLE = (
    "CERTIFICATE_VERIFY_FAILED",
    "Hostname Verification",
    "WRONG_VERSION_NUMBER",
    "TSI_DATA_CORRUPTED",
    "handshake",
)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
_UNLISTABLE_S = 2.0
# What tritonclient sets itself, and a server that is back is tried again within a second rather than two minutes.
# `min_reconnect_backoff_ms` is really how long one try to connect may take: on a busy machine 100 ms are not enough,
# and a canary that is told UNAVAILABLE for that has the supervisor start a new server.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    # A compressed message is bounded before it is unpacked, so it is not unpacked: no Triton sends one unasked.
    ("grpc.per_message_decompression", 0),
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


class WrongAnswer(ServerError):  # noqa: N818 - named after what happened
    """The server answered, but not what it was asked."""


class TritonClient:
    """A connection to one server."""

    def __init__(self, address: Address, *, timeout_s: float = 60.0, retries: int = 0) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            address: the server's.
            timeout_s: for one answer, all of it; the environment's RESX_TIMEOUT_S where that is less.
            retries: how often an inference, or the question for a model's interface, is sent again after its
                connection or the process behind it was lost, waiting 0.1 s, 0.2 s and so on to 2 s in between.
                These change nothing, so they may reach the server twice. Every other error, and every other
                call, is reported at once.
        """
        self.address = address
        self._timeout_s = min(timeout_s, _timeout_of_environment())
        self._retries = retries
        self.num_sent_again = 0
        """Requests that were lost and repeated, each time counted."""
        self._module = importlib.import_module(f"tritonclient.{address.protocol}")
        self._headers = dict(address.headers)
        self._control: dict[str, str] = {}
        if address.control_key:
            # Triton reads a restricted gRPC protocol's key from metadata under this prefix.
            prefix = "triton-grpc-protocol-" if address.protocol == "grpc" else ""
            self._control[prefix + CONTROL_HEADER] = address.control_key
        self._most_bytes = answers.MAX_ANSWER_BYTES
        self._client: Any = self._connected()

    def _connected(self) -> Any:
        if self.address.protocol == "http":
            return HttpClient(self.address, timeout_s=self._timeout_s)
        secure = {"creds": self.address.tls.grpc_credentials()} if self.address.tls else {}
        most = ("grpc.max_receive_message_length", self._most_bytes)
        options = [*_CHANNEL, *grpc_options(self.address.host_port), most]
        return self._module.InferenceServerClient(self.address.host_port, channel_args=options, **secure)

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
        try:
            found = self._words(self._client.get_server_metadata, "ServerMetadataResponse")
        except WrongAnswer as error:
            raise self._not_triton("no server metadata") from error
        if "extensions" not in found:
            raise self._not_triton("no server metadata")
        return shorten(found.get("version", "of no version"))

    def is_live(self) -> bool:
        """Say whether a server answers there."""
        try:
            return bool(self._call(self._client.is_server_live))
        except ResxError:
            return False

    def model_versions(self, state: str = "READY") -> dict[str, list[int]]:
        """Return the versions that are ready, by model; or those in another of Triton's states, like UNLOADING."""
        try:
            return model_index.versions_in(self._index(), state)
        except Unexpected as error:
            raise self._wrong(str(error)) from error

    def repository_models(self) -> set[str]:
        """Return the models in the server's own repository, loaded or not."""
        return model_index.names_in(self._index())

    def _index(self) -> dict[str, Any]:
        """Return the repository's index.

        Triton gives none while one name in the repository is a link to nothing. The embedded server's supervisor leaves
        such a name out as soon as it sees it.
        """
        deadline = time.monotonic() + _UNLISTABLE_S
        while True:
            try:
                options = {"headers": self._control}
                return self._words(self._client.get_model_repository_index, "RepositoryIndexResponse", options)
            except ServerError as error:
                if "failed to stat file" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

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
        return self._config(model, None)

    def interface(self, model: str, version: int | None = None) -> Interface:
        """Return what a model takes and gives.

        Raises:
            UsageError: the model is not loaded, takes more than one tensor, or cannot have that name.
        """
        if printable(model) != model:
            raise UsageError(f"{model}: no model's name has bytes that are no UTF-8; `resx status` lists the models")
        return self._interface_in(model, self._patiently(lambda: self._loaded_config(model, version)))

    def require_loaded(self, model: str, version: int | None = None) -> None:
        """Check that a model can be asked.

        Raises:
            NotLoaded: it cannot; the message holds the server's reason where it tried to load the model.
        """
        self._patiently(lambda: self._loaded_config(model, version))

    def infer(self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None) -> Answer:
        """Return the logits [N, classes] for one request of images [N, 3, H, W]; more axes are flattened.

        Raises:
            WrongAnswer: it is not a row of so many values for each image.
        """
        found = self._infer(model, interface, images, version)
        try:
            logits = answers.logits_of(found, interface, interface.num_rows(images))
        except Unexpected as error:
            raise self._wrong(f"{model} answered {len(images)} images with {error}") from error
        return Answer(logits=logits, version=found.version)

    def answering(self, model: str, interface: Interface, sent: npt.NDArray[Any], version: int | None = None) -> int:
        """Return which version answers a request, whatever its answer holds."""
        return self._infer(model, interface, sent, version).version

    def classify(
        self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None
    ) -> list[list[Prediction]]:
        """Return per image all classes, most likely first, under the labels that the server knows.

        Uses Triton's classification extension, whose strings are `logit:index:label`. A model of a fixed batch
        has no batch axis to Triton, which then takes all its rows for one.
        """
        num_classes = interface.num_classes
        if not num_classes:
            raise UsageError(f"{model}: its configuration does not say how many classes it gives; write them into dims")
        num_rows, per_row = len(images), num_classes
        if interface.fixed_batch:
            num_rows, per_row = 1, num_classes * num_rows
        found = self._infer(model, interface, images, version, class_count=per_row)
        rows = self._predictions(model, found, num_rows, per_row)
        return answers.by_row(rows[0], num_classes) if interface.fixed_batch else rows

    def classify_file(self, endpoint: str, content: bytes) -> list[Prediction]:
        """Return all classes of a JPEG, PNG or WebP file, most likely first; the server decodes it.

        Args:
            endpoint: the model that takes files, `NAME_image`.
            content: the file's bytes.

        Raises:
            UsageError: the endpoint is not loaded, or the server cannot decode the file.
        """
        try:
            config = self._config(endpoint, None)
        except UsageError as error:
            raise UsageError(f"{error}; `resx export --image-endpoint` makes one for a model") from error
        interface = self._interface_in(endpoint, config)
        num_classes = interface.num_classes
        if interface.input_dims != (-1,) or not num_classes:
            raise UsageError(f"{endpoint}: does not take a file's bytes; `resx export --image-endpoint` makes one")
        found = self._infer(endpoint, interface, np.frombuffer(content, np.uint8), None, class_count=num_classes)
        return self._predictions(endpoint, found, 1, num_classes)[0]

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
        options = self._of(model, version)
        found = self._words(self._client.get_inference_statistics, "ModelStatisticsResponse", options)
        return [{"inference_stats": {}} | entry for entry in found.get("model_stats", [])]

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

    def ask(
        self, model: str, given: Mapping[str, tuple[str, npt.NDArray[Any]]], output: str, version: int | None = None
    ) -> answers.Inference:
        """Return one output of any model.

        Args:
            model: its name.
            given: type, as Triton calls it in requests, and values by input.
            output: the output's name.
            version: None: the newest that is loaded.

        Raises:
            WrongAnswer: it cannot be read, or has no such output.
        """
        return self._asked(model, given, output, version)

    def _infer(
        self, model: str, interface: Interface, sent: npt.NDArray[Any], version: int | None, **classes: int
    ) -> answers.Inference:
        self._expect(answers.answer_bytes(interface, interface.num_rows(sent)))
        given = {interface.input_name: (interface.input_type, sent)}
        return self._asked(model, given, interface.output_name, version, **classes)

    def _asked(
        self,
        model: str,
        given: Mapping[str, tuple[str, npt.NDArray[Any]]],
        output: str,
        version: int | None,
        **classes: int,
    ) -> answers.Inference:
        requests = []
        for name, (datatype, values) in given.items():
            requests.append(self._module.InferInput(name, list(values.shape), datatype))
            requests[-1].set_data_from_numpy(values)
        options = self._of(model, version) | {
            "inputs": requests,
            "outputs": [self._module.InferRequestedOutput(output, **classes)],
        }
        if self.address.protocol == "http":
            options["max_bytes"] = self._most_bytes
        found = self._patiently(lambda: self._call(self._client.infer, options))
        try:
            if self.address.protocol == "grpc":
                return answers.inference_of_grpc(found.get_response(), output)
            header_length = found.headers.get("inference-header-content-length")
            return answers.inference_of_http(found.body, header_length, output)
        except Unexpected as error:
            raise self._wrong(f"{model} answered with {error}") from error

    def _expect(self, num_bytes: int) -> None:
        """Allow an answer to have so many bytes; a gRPC channel's bound is for all that comes through it."""
        if num_bytes > self._most_bytes:
            self._most_bytes = num_bytes
            if self.address.protocol == "grpc":
                self._client.close()
                self._client = self._connected()

    def _predictions(self, model: str, found: answers.Inference, num_rows: int, per_row: int) -> list[list[Prediction]]:
        try:
            rows = answers.predictions_of(found, num_rows, per_row)
        except Unexpected as error:
            raise self._wrong(f"{model} answered with {error}") from error
        for row in rows:
            if bad := [one for one in row if not is_label(one.label, with_tabs=True)]:
                shown = f"class {bad[0].index} '{one_line(bad[0].label[:100])}'"
                raise ServerError(f"{self.address}: {model} calls {shown}: {LABEL_RULE}; mend its labels.txt")
        return rows

    def _interface_in(self, model: str, config: Mapping[str, Any]) -> Interface:
        try:
            return interface_of(model, config)
        except Unexpected as error:
            raise self._wrong(str(error)) from error

    def _loaded_config(self, model: str, version: int | None) -> dict[str, Any]:
        try:
            return self._config(model, version)
        except NotLoaded as error:
            why = ""
            with contextlib.suppress(ResxError):  # the index may be behind a key
                why = model_index.why_not_ready(self._index(), model)
            if not why:
                raise
            raise NotLoaded(f"{self.address}: {model} cannot answer, {why}; `resx deploy` tries again") from error

    def _config(self, model: str, version: int | None) -> dict[str, Any]:
        found = self._words(self._client.get_model_config, "ModelConfigResponse", self._of(model, version))
        return dict(found.get("config", {}))

    def _patiently(self, call: Callable[[], T]) -> T:
        for tries_before in range(self._retries):
            try:
                return call()
            except (ConnectionLost, ModelProcessLost):
                self.num_sent_again += 1
                time.sleep(min(FIRST_WAIT_S * 2**tries_before, LONGEST_WAIT_S))
        return call()

    @staticmethod
    def _of(model: str, version: int | None) -> dict[str, Any]:
        return {"model_name": model, "model_version": "" if version is None else str(version)}

    def _words(self, call: Callable[..., Any], kind: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return an answer in words as JSON of Triton's message of that kind."""
        try:
            return answers.words(self._call(call, options), kind)
        except Unexpected as error:
            raise self._wrong(str(error)) from error
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
        except (InferenceServerException, answers.Refused) as error:
            raise self._translated(error) from error
        except NotHttp as error:
            raise self._not_triton(str(error)) from error
        except ssl.SSLError as error:
            raise self._insecure(str(error.reason or error)) from error
        except TimeoutError as error:  # not a lost connection: sent again, it would wait as long once more
            raise MissingCapability(str(self._unreachable(str(error) or "timed out"))) from error
        except (OSError, EOFError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _wrong(self, what: str) -> WrongAnswer:
        return WrongAnswer(f"{self.address}: unexpected answer: {what}; check --url, and the server's log")

    def _translated(self, error: Any) -> ResxError:
        message, status = shorten(error.message()), str(error.status())
        if "restricted" in message or "expecting header" in message:
            return MissingCapability(
                f"{self.address}: control needs a key; set {CONTROL_KEY_VARIABLE} to the one it was started with"
            )
        if _NO_CONTROL in message:
            return MissingCapability(
                f"{self.address}: its control mode forbids to load and unload models; start that server with "
                "--model-control-mode=explicit (mode none reads its repository once, mode poll by itself)"
            )
        if _NOT_POLLED in message:
            return ServerError(
                f"{self.address}: {message}: a folder or a config.pbtxt in its repository that it cannot read; its "
                "log says why"
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
        if status in {"404", "405", "501"} or status.startswith("3") or "UNIMPLEMENTED" in status:
            return self._not_triton(f"status {status}")
        if "RESOURCE_EXHAUSTED" in status or "deserializing response" in message:
            return self._wrong(f"an answer that cannot be read ({message})")
        if _ROWS in message:
            return WrongAnswer(f"{self.address}: {message}")
        return ServerError(f"{self.address}: {message or f'status {status} without a reason'}")

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
        ours = is_loopback(split_host(self.address.host_port)[0]) and self.address.tls is None
        remedy = "start one with `resx serve --detach`, or give --url" if ours else "check --url"
        if self.address.tls is None and ("closed" in reason or "reset" in reason):
            remedy += "; one that speaks TLS wants grpcs:// or https://"
        if self.address.protocol == "grpc" and (proxy := grpc_proxy(self.address.host_port)):
            reason += f", through the proxy {proxy}"
            remedy += ", or name the host in no_proxy"
        return ConnectionLost(f"{self.address}: no server answers ({reason}); {remedy}")


def _timeout_of_environment() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "") or "inf"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{TIMEOUT_VARIABLE}={text}: give the seconds of one answer, above 0")
    return seconds
