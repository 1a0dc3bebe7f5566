"""One client for any Triton, over http or grpc, with resx's errors.

What a server says is believed only as far as `answers` can parse it. One object serves one thread.
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
    """The logits for one request, and which version gave them."""

    logits: npt.NDArray[np.float32]
    version: int


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
        self._transport = Transport(address, timeout_s=timeout_s, retries=retries)

    @property
    def num_sent_again(self) -> int:
        """Requests that were lost and repeated, each time counted."""
        return self._transport.num_sent_again

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. An open one would hold up the server's shutdown."""
        self._transport.close()

    def server_version(self) -> str:
        """Return the server's version.

        Raises:
            MissingCapability: nothing answers there, or what answers is no inference server.
        """
        try:
            found = self._transport.words("get_server_metadata", "ServerMetadataResponse")
        except WrongAnswer as error:
            raise not_triton(self.address, "no server metadata") from error
        if "extensions" not in found:
            raise not_triton(self.address, "no server metadata")
        return shorten(found.get("version", "of no version"))

    def is_live(self) -> bool:
        """Say whether a server answers there."""
        try:
            return bool(self._transport.call("is_server_live"))
        except ResxError:
            return False

    def model_versions(self, state: str = "READY") -> dict[str, list[int]]:
        """Return the versions that are ready, by model; or those in another of Triton's states, like UNLOADING."""
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
        """Say whether the server calls a model's newest version ready; its process may be dead all the same."""
        return bool(self._transport.call("is_model_ready", {"model_name": model}))

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
            raise UsageError(f"{model}: not valid UTF-8; `resx status` lists the models")
        return self._interface_in(model, self._transport.patiently(lambda: self._loaded_config(model, version)))

    def require_loaded(self, model: str, version: int | None = None) -> None:
        """Check that a model can be asked.

        Raises:
            NotLoaded: it cannot; the message holds the server's reason where it tried to load the model.
        """
        self._transport.patiently(lambda: self._loaded_config(model, version))

    def infer(self, model: str, interface: Interface, images: npt.NDArray[Any], version: int | None = None) -> Answer:
        """Return the logits [N, classes] for one request of images [N, 3, H, W]; more axes are flattened.

        Raises:
            WrongAnswer: it is not a row of so many values for each image.
        """
        found = self._infer(model, interface, images, version)
        try:
            logits = answers.logits_of(found, interface, interface.num_rows(images))
        except Unexpected as error:
            raise wrong_answer(self.address, f"{model} answered {len(images)} images with {error}") from error
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
            raise UsageError(f"{model}: its configuration does not give the number of classes; write it into dims")
        num_rows, per_row = len(images), num_classes
        if interface.fixed_batch:
            num_rows, per_row = 1, num_classes * num_rows
        found = self._infer(model, interface, images, version, classes=per_row)
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
        """Load a model, or bring it to its newest version.

        Args:
            model: its name.
            config_json: in place of its config.pbtxt.
            files: in place of its folder, by `file:` and the path in it; with these, `config_json` is needed.
        """
        options = {"config": config_json, "files": None if files is None else dict(files)}
        self._transport.call("load_model", {"model_name": model} | options, control=True)

    def unload(self, model: str) -> None:
        """Unload all versions of a model."""
        self._transport.call("unload_model", {"model_name": model}, control=True)

    def statistics(self, model: str, version: int | None = None) -> list[dict[str, Any]]:
        """Return Triton's own counters per loaded version, as its statistics extension words them."""
        options = of_model(model, version)
        found = self._transport.words("get_inference_statistics", "ModelStatisticsResponse", options)
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
        options = {"name": name, "key": key, "byte_size": num_bytes}
        self._transport.call("register_system_shared_memory", options, control=True)

    def unregister_shared_memory(self, name: str) -> None:
        """Let the server forget a region."""
        self._transport.call("unregister_system_shared_memory", {"name": name}, control=True)

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
