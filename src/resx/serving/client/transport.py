"""One connection to a server, and its calls: their answers within bounds, their failures as resx's errors.

Over gRPC tritonclient asks, over HTTP `http_client`, which has the same calls; which one is decided here and nowhere
else. tritonclient is imported on first use.
"""

from __future__ import annotations

import importlib
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy.typing as npt

from resx.errors import MissingCapability, UsageError
from resx.repository.interface import Unexpected, shorten
from resx.serving.client import answers
from resx.serving.client.address import CONTROL_HEADER, Address
from resx.serving.client.http_client import HttpClient
from resx.serving.client.http_connection import NotHttp
from resx.serving.client.loopback import grpc_options
from resx.serving.client.server_errors import (
    ConnectionLost,
    ModelProcessLost,
    Refusal,
    insecure,
    not_triton,
    unreachable,
    wrong_answer,
)

T = TypeVar("T")
TIMEOUT_VARIABLE = "RESX_TIMEOUT_S"
"""Seconds after which an answer is given up, where that is earlier than the command's own limit."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
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


class Transport:
    """A connection that is made by the first call."""

    def __init__(self, address: Address, *, timeout_s: float, retries: int) -> None:
        """Prepare it; for the arguments see `TritonClient`."""
        self.address = address
        self.num_sent_again = 0
        self._timeout_s = min(timeout_s, _timeout_of_environment())
        self._retries = retries
        self._module = importlib.import_module(f"tritonclient.{address.protocol}")
        self._headers = dict(address.headers)
        self._control: dict[str, str] = {}
        if address.control_key:
            # Triton reads a restricted gRPC protocol's key from metadata under this prefix.
            prefix = "triton-grpc-protocol-" if address.protocol == "grpc" else ""
            self._control[prefix + CONTROL_HEADER] = address.control_key
        self._most_bytes = answers.MAX_ANSWER_BYTES
        self._client: Any = self._connected()
        self._outgrown: list[Any] = []
        self._growing = threading.Lock()

    def _connected(self) -> Any:
        if self.address.protocol == "http":
            return HttpClient(self.address, timeout_s=self._timeout_s)
        secure = {"creds": self.address.tls.grpc_credentials()} if self.address.tls else {}
        most = ("grpc.max_receive_message_length", self._most_bytes)
        options = [*_CHANNEL, *grpc_options(self.address.host_port), most]
        return self._module.InferenceServerClient(self.address.host_port, channel_args=options, **secure)

    def close(self) -> None:
        """Close it. An open one would hold up the server's shutdown."""
        for client in (*self._outgrown, self._client):
            client.close()

    def expect(self, num_bytes: int) -> None:
        """Allow an answer to have so many bytes; a gRPC channel's bound is for all that comes through it.

        The channel before stays open until the end: other threads' calls are on it.
        """
        with self._growing:
            if num_bytes > self._most_bytes:
                self._most_bytes = num_bytes
                if self.address.protocol == "grpc":
                    self._outgrown.append(self._client)
                    self._client = self._connected()

    def infer(
        self,
        model: str,
        version: int | None,
        given: Mapping[str, tuple[str, npt.NDArray[Any]]],
        output: str,
        classes: int,
    ) -> answers.Inference:
        """Return one output of a model; with `classes` above 0 by Triton's classification extension.

        Raises:
            WrongAnswer: it cannot be read, or has no such output.
        """
        requests = []
        for name, (datatype, values) in given.items():
            requests.append(self._module.InferInput(name, list(values.shape), datatype))
            requests[-1].set_data_from_numpy(values)
        options = of_model(model, version) | {
            "inputs": requests,
            "outputs": [self._module.InferRequestedOutput(output, class_count=classes)],
        }
        if self.address.protocol == "http":
            options["max_bytes"] = self._most_bytes
        found = self.patiently(lambda: self.call("infer", options))
        try:
            if self.address.protocol == "grpc":
                return answers.inference_of_grpc(found.get_response(), output)
            header_length = found.headers.get("inference-header-content-length")
            return answers.inference_of_http(found.body, header_length, output)
        except Unexpected as error:
            raise wrong_answer(self.address, f"{model} answered with {error}") from error

    def patiently(self, call: Callable[[], T]) -> T:
        """Return a call's result; it is sent again where its connection, or the process behind it, was lost."""
        for tries_before in range(self._retries):
            try:
                return call()
            except (ConnectionLost, ModelProcessLost):
                self.num_sent_again += 1
                time.sleep(min(FIRST_WAIT_S * 2**tries_before, LONGEST_WAIT_S))
        return call()

    def words(
        self, name: str, kind: str, options: Mapping[str, Any] | None = None, *, control: bool = False
    ) -> dict[str, Any]:
        """Return a call's answer in words, as JSON of Triton's message of that kind."""
        try:
            return answers.words(self.call(name, options, control=control), kind)
        except Unexpected as error:
            raise wrong_answer(self.address, str(error)) from error
        except ValueError as error:  # a web server that answers 200 with a page
            raise not_triton(self.address, "no JSON") from error

    def call(self, name: str, options: Mapping[str, Any] | None = None, *, control: bool = False) -> Any:
        """Return what a call gives.

        Args:
            name: tritonclient's.
            options: of the call.
            control: whether it wants the control key.

        Raises:
            ResxError: the server refused, failed, or does not answer (`server_errors`).
        """
        from tritonclient.utils import InferenceServerException

        options = dict(options or {}) | {"headers": self._headers | (self._control if control else {})}
        if self.address.protocol == "grpc":
            options["client_timeout"] = self._timeout_s
        try:
            return getattr(self._client, name)(**options)
        except (InferenceServerException, answers.Refused) as error:
            message, status = shorten(error.message()), str(error.status())
            refusal = Refusal(address=self.address, message=message, status=status, timeout_s=self._timeout_s)
            raise refusal.error() from error
        except NotHttp as error:
            raise not_triton(self.address, str(error)) from error
        except ssl.SSLError as error:
            raise insecure(self.address, str(error.reason or error)) from error
        except TimeoutError as error:  # not a lost connection: sent again, it would wait as long once more
            raise MissingCapability(str(unreachable(self.address, str(error) or "timed out"))) from error
        except (OSError, EOFError) as error:
            raise unreachable(self.address, str(error) or type(error).__name__) from error


def of_model(model: str, version: int | None) -> dict[str, Any]:
    """Return the options that name a model; None: its newest version."""
    return {"model_name": model, "model_version": "" if version is None else str(version)}


def _timeout_of_environment() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "") or "inf"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{TIMEOUT_VARIABLE}={text}: give the timeout of one request in seconds, above 0")
    return seconds
