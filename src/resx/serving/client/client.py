"""A client for any Triton server, over HTTP or gRPC, with resx's errors.

`answers` parses and limits every response, because a server may be broken or hostile. Use one client per thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from resx.errors import ResxError, ServerError, UsageError
from resx.names import LABEL_RULE, is_label
from resx.repository.interface import Interface, Unexpected, interface_of, shorten
from resx.serving.client import answers, model_index
from resx.serving.client.address import Address
from resx.serving.client.answers import Prediction
from resx.serving.client.server_errors import NotLoaded, Unlistable, WrongAnswer, not_triton, wrong_answer
from resx.serving.client.transport import Transport, of_model
from resx.text import one_line, printable

_UNLISTABLE_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The logits [N, classes] of one request, and the version that computed them."""

    logits: npt.NDArray[np.float32]
    version: int


class TritonClient:
    """A connection to one Triton server. Use it in one thread, and close it (or use it in a `with` block).

    Every method may raise `MissingCapability` if no server answers, and `ServerError` if the server reports an error
    or its response does not match the request.
    """

    def __init__(self, address: Address, *, timeout_s: float = 60.0, retries: int = 0) -> None:
        """Prepare a connection. Nothing is sent before the first call.

        Args:
            address: the server's address, with its TLS settings, headers and control key.
            timeout_s: seconds for one complete response; RESX_TIMEOUT_S in the environment if that is lower.
            retries: how often an inference, or a query of a model's interface, is repeated after the connection or
                the model's process was lost. The waits are 0.1 s, 0.2 s and so on, up to 2 s. These requests
                change nothing on the server, so repeating them is safe. Other calls and errors are not repeated.
        """
        self.address = address
        self._transport = Transport(address, timeout_s=timeout_s, retries=retries)

    @property
    def num_sent_again(self) -> int:
        """Number of repeated requests."""
        return self._transport.num_sent_again

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. An open connection delays the server's shutdown."""
        self._transport.close()

    def server_version(self) -> str:
        """Return the server's version.

        Raises:
            MissingCapability: no server answers, or it is not an inference server.
        """
        try:
            found = self._transport.words("get_server_metadata", "ServerMetadataResponse")
        except WrongAnswer as error:
            raise not_triton(self.address, "no server metadata") from error
        if "extensions" not in found:
            raise not_triton(self.address, "no server metadata")
        return shorten(found.get("version", "of no version"))

    def is_live(self) -> bool:
        """Return whether the server answers."""
        try:
            return bool(self._transport.call("is_server_live"))
        except ResxError:
            return False

    def model_versions(self, state: str = "READY") -> dict[str, list[int]]:
        """Return the versions in one of Triton's states (READY, UNLOADING, ...), by model."""
        try:
            return model_index.versions_in(self._index(), state)
        except Unexpected as error:
            raise wrong_answer(self.address, str(error)) from error

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
                return self._transport.words("get_model_repository_index", "RepositoryIndexResponse", control=True)
            except Unlistable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def is_model_ready(self, model: str) -> bool:
        """Return whether the server reports a model's newest version as ready. Its process may still be dead."""
        return bool(self._transport.call("is_model_ready", {"model_name": model}))

    def is_ensemble(self, model: str) -> bool:
        """Return whether a loaded model is an ensemble, which passes its requests on to other models."""
        return bool(self.config(model).get("platform") == "ensemble")

    def config(self, model: str) -> dict[str, Any]:
        """Return a model's configuration, as completed by the server.

        Raises:
            NotLoaded: the model is not loaded.
        """
        return self._config(model, None)

    def interface(self, model: str, version: int | None = None) -> Interface:
        """Return the names, types and shapes of a model's input and output.

        Raises:
            UsageError: the model is not loaded, has more than one input, or its name is invalid.
        """
        if printable(model) != model:
            raise UsageError(f"{model}: not valid UTF-8; `resx status` lists the models")
        return self._interface_in(model, self._transport.patiently(lambda: self._loaded_config(model, version)))

    def require_loaded(self, model: str, version: int | None = None) -> None:
        """Check that a model is loaded.

        Raises:
            NotLoaded: it is not. If the server failed to load it, the message has the server's reason.
        """
        self._transport.patiently(lambda: self._loaded_config(model, version))

    def infer(self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None) -> Answer:
        """Send one request and return its logits [N, classes]; further axes of the output are flattened.

        Args:
            model: the model's name.
            interface: from `interface(model)`.
            images: [N, 3, H, W] in the input's type: uint8 pixels, or normalized float32.
            version: None for the newest loaded version.

        Raises:
            NotLoaded: the model or version is not loaded.
            WrongAnswer: the answer does not have one row of logits per image.
        """
        found = self._infer(model, interface, images, version)
        try:
            logits = answers.logits_of(found, interface, interface.num_rows(images))
        except Unexpected as error:
            raise wrong_answer(self.address, f"{model} answered {len(images)} images with {error}") from error
        return Answer(logits=logits, version=found.version)

    def answering(self, model: str, interface: Interface, sent: npt.NDArray[Any], version: int | None = None) -> int:
        """Send a request and return the version that answered it; the values of the answer are not checked."""
        return self._infer(model, interface, sent, version).version

    def classify(
        self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None
    ) -> list[list[Prediction]]:
        """Return all classes of each image, most likely first, with the server's labels.

        Uses Triton's classification extension, whose strings are `logit:index:label`. A model with a fixed batch has
        no batch axis in Triton, so Triton returns all its rows as one.

        Raises:
            UsageError: the model's configuration does not give the number of classes.
            WrongAnswer: the answer does not have the requested rows and classes.
        """
        num_classes = interface.num_classes
        if not num_classes:
            raise UsageError(f"{model}: its configuration does not give the number of classes; set it in dims")
        num_rows, per_row = len(images), num_classes
        if interface.fixed_batch:
            num_rows, per_row = 1, num_classes * num_rows
        found = self._infer(model, interface, images, version, classes=per_row)
        rows = self._predictions(model, found, num_rows, per_row)
        return answers.by_row(rows[0], num_classes) if interface.fixed_batch else rows

    def classify_file(self, endpoint: str, content: bytes) -> list[Prediction]:
        """Return all classes of a JPEG, PNG or WebP file, most likely first. The server decodes the file.

        Args:
            endpoint: the image endpoint, `NAME_image`.
            content: the bytes of the file.

        Raises:
            UsageError: the endpoint is not loaded, or the server cannot decode the file.
        """
        try:
            config = self._config(endpoint, None)
        except UsageError as error:
            raise UsageError(f"{error}; create one with `resx export --image-endpoint`") from error
        interface = self._interface_in(endpoint, config)
        num_classes = interface.num_classes
        if interface.input_dims != (-1,) or not num_classes:
            raise UsageError(
                f"{endpoint}: does not accept image files; create an endpoint with `resx export --image-endpoint`"
            )
        found = self._infer(endpoint, interface, np.frombuffer(content, np.uint8), None, classes=num_classes)
        return self._predictions(endpoint, found, 1, num_classes)[0]

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load a model, or update it to its newest version.

        Args:
            model: the model's name.
            config_json: a configuration that replaces its config.pbtxt.
            files: contents that replace its folder; the keys are `file:` and the path in the folder. These need
                `config_json`.
        """
        options = {"config": config_json, "files": None if files is None else dict(files)}
        self._transport.call("load_model", {"model_name": model} | options, control=True)

    def unload(self, model: str) -> None:
        """Unload all versions of a model."""
        self._transport.call("unload_model", {"model_name": model}, control=True)

    def statistics(self, model: str, version: int | None = None) -> list[dict[str, Any]]:
        """Return Triton's statistics of each loaded version, with the names of its statistics extension."""
        options = of_model(model, version)
        found = self._transport.words("get_inference_statistics", "ModelStatisticsResponse", options)
        return [{"inference_stats": {}} | entry for entry in found.get("model_stats", [])]

    def register_shared_memory(self, name: str, key: str, num_bytes: int) -> None:
        """Let the server read a region of system shared memory on its own machine.

        Args:
            name: the region's name in requests.
            key: the region's name for shm_open.
            num_bytes: size of the region, from its beginning.

        Raises:
            ResxError: the server refuses.
        """
        options = {"name": name, "key": key, "byte_size": num_bytes}
        self._transport.call("register_system_shared_memory", options, control=True)

    def unregister_shared_memory(self, name: str) -> None:
        """Unregister a region of shared memory."""
        self._transport.call("unregister_system_shared_memory", {"name": name}, control=True)

    def ask(
        self, model: str, given: Mapping[str, tuple[str, npt.NDArray[Any]]], output: str, version: int | None = None
    ) -> answers.Inference:
        """Return one output of any model.

        Args:
            model: the model's name.
            given: for each input its type, as in Triton's requests (`FP32`), and its values.
            output: the output's name.
            version: None for the newest loaded version.

        Raises:
            WrongAnswer: the answer cannot be read, or has no such output.
        """
        return self._transport.infer(model, version, given, output, 0)

    def _infer(
        self, model: str, interface: Interface, sent: npt.NDArray[Any], version: int | None, classes: int = 0
    ) -> answers.Inference:
        self._transport.expect(answers.answer_bytes(interface, interface.num_rows(sent)))
        given = {interface.input_name: (interface.input_type, sent)}
        return self._transport.infer(model, version, given, interface.output_name, classes)

    def _predictions(self, model: str, found: answers.Inference, num_rows: int, per_row: int) -> list[list[Prediction]]:
        try:
            rows = answers.predictions_of(found, num_rows, per_row)
        except Unexpected as error:
            raise wrong_answer(self.address, f"{model} answered with {error}") from error
        for row in rows:
            if bad := [one for one in row if not is_label(one.label, with_tabs=True)]:
                shown = f"class {bad[0].index} '{one_line(bad[0].label[:100])}'"
                raise ServerError(f"{self.address}: {model} calls {shown}: {LABEL_RULE}; fix its labels.txt")
        return rows

    def _interface_in(self, model: str, config: Mapping[str, Any]) -> Interface:
        try:
            return interface_of(model, config)
        except Unexpected as error:
            raise wrong_answer(self.address, str(error)) from error

    def _loaded_config(self, model: str, version: int | None) -> dict[str, Any]:
        try:
            return self._config(model, version)
        except NotLoaded as error:
            why = ""
            with contextlib.suppress(ResxError):  # the index may be behind a key
                why = model_index.why_not_ready(self._index(), model)
            if not why:
                raise
            raise NotLoaded(f"{self.address}: {model} cannot answer: {why}") from error

    def _config(self, model: str, version: int | None) -> dict[str, Any]:
        found = self._transport.words("get_model_config", "ModelConfigResponse", of_model(model, version))
        return dict(found.get("config", {}))
