"""A published version's file in this process, under the options that the server runs it with."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card import card as cards
from resx.errors import MissingCapability, ResxError, UsageError, first_line
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import sha256_of
from resx.names import LABEL_RULE, is_label
from resx.repository.config_pbtxt import OPENVINO
from resx.repository.interface import Unexpected, interface_of
from resx.repository.versions import Repository
from resx.runtimes.float_state import keep_float_state, read_float_state
from resx.runtimes.openvino_package import load_openvino
from resx.runtimes.signal_stack import keep_signal_stack
from resx.scoring.rows import Model
from resx.serving.client.image_queries import preparation_for
from resx.serving.client.server_errors import WrongAnswer
from resx.serving.embedded.backend_session import backend_of, load_session, served_config, this_process
from resx.serving.embedded.backends.config_values import num_instances
from resx.text import one_line

Device: TypeAlias = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
Run: TypeAlias = Callable[[list[str], dict[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]
"""An opened file: gives the outputs of these names for the inputs."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """A version's file and how to open it."""

    model: Model
    path: Path
    config: dict[str, Any]
    """config.pbtxt as the backend reads it."""

    @property
    def instances(self) -> int:
        """Sessions that run at the same time."""
        return num_instances(self.config)


def find_model(repository: Repository, name: str, version: int | None) -> ModelFile:
    """Return a published version; None takes the newest.

    Raises:
        UsageError: there is no such model or version, it takes no images, or its configuration cannot be used.
        MissingCapability: it is an engine, or its runtime is not installed.
    """
    folder = repository.version_folder(name, version)
    card = cards.read_card(folder) if (folder / cards.FILE_NAME).is_file() else None
    config = {"max_batch_size": 0, **served_config(folder.parent, card)}
    if card is not None and card.engine is not None:
        raise MissingCapability(f"{name}: its file is {card.model_file}, a TensorRT engine; use --url")
    if (backend := backend_of(config)) == "tensorrt":
        raise MissingCapability(f"{name}: its file is a TensorRT engine; use --url")
    session = load_session(backend)
    with _refusing(name):
        path = Path(session.model_path(str(folder), config))
    if not (config.get("input") and config.get("output")):
        _require_package(backend, "cpu")
        with _refusing(name):
            session.file_interface.complete(config, *session.describe_file(str(path), config, this_process()))
    try:
        interface = interface_of(name, config)
    except Unexpected as error:
        raise UsageError(f"{folder.parent}: {error}; fix its config.pbtxt") from error
    preparation_for(interface)  # refuses what takes no images
    model = Model(
        name=name,
        version=int(folder.name),
        sha256=sha256_of(path),
        interface=interface,
        labels=_labels(folder.parent, config, interface.num_classes),
    )
    return ModelFile(model=model, path=path, config=config)


def load_onnxruntime(device: Device) -> Any:
    """Import onnxruntime.

    Raises:
        MissingCapability: it is not installed, or not the one for the device.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingCapability(
            "onnxruntime is not installed; pip install 'resx[cpu]' or onnxruntime alone (--device cuda: 'resx[gpu]' or "
            "onnxruntime-gpu), or give --url"
        ) from error
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise MissingCapability(f"--device {device}: onnxruntime has no {provider} here; pip install onnxruntime-gpu")
    return onnxruntime


def require_runtime(file: ModelFile, device: Device) -> None:
    """Check that what computes a file is installed, and computes on the device.

    Raises:
        UsageError: OpenVINO is to compute on a GPU.
        MissingCapability: a package is missing, or not the one for the device.
    """
    _require_package(backend_of(file.config), device)


def _require_package(backend: str, device: Device) -> None:
    if backend != OPENVINO:
        load_onnxruntime(device)
        return
    if device != "cpu":
        raise UsageError(f"--device {device}: OpenVINO runs this model on the CPU; remove the option")
    load_openvino()


def open_file(file: Path | bytes, config: dict[str, Any], device: Device, name: str) -> Run:
    """Open a file, or its bytes, as the server would: in the runtime and under the options that config.pbtxt names.

    Raises:
        UsageError: OpenVINO is to compute on a GPU.
        MissingCapability: the runtime is not installed, or not the one for the device.
        ResxError: the runtime refuses the file or the configuration.
    """
    backend = backend_of(config)
    _require_package(backend, device)
    return _open_openvino(file, config, name) if backend == OPENVINO else _open_onnxruntime(file, config, device, name)


def _open_openvino(file: Path | bytes, config: dict[str, Any], name: str) -> Run:
    session = load_session(OPENVINO)
    with contextlib.ExitStack() as kept:
        if isinstance(file, bytes):
            folder = kept.enter_context(tempfile.TemporaryDirectory(prefix="resx-"))
            path = Path(folder, config.get("default_model_filename", "model.onnx"))
            path.write_bytes(file)
        else:
            path = file
        try:
            with keep_float_state(), keep_signal_stack():
                opened = session.open_model(str(path), config, this_process())
                inside = read_float_state()
        except Exception as error:
            raise ResxError(f"{name}: OpenVINO cannot open it: {first_line(error)}") from error

    def run(names: list[str], inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        with keep_float_state(inside):
            answer: list[npt.NDArray[Any]] = opened.run(names, inputs, opened.options)
        return answer

    return run


def _open_onnxruntime(file: Path | bytes, config: dict[str, Any], device: Device, name: str) -> Run:
    onnxruntime, provider = load_onnxruntime(device), PROVIDERS[device]
    settings = load_session().session_settings
    try:
        options, run_options = settings.session_options(config, this_process()), settings.run_options(config)
        session = onnxruntime.InferenceSession(
            file if isinstance(file, bytes) else str(file), options, providers=[provider]
        )
    except Exception as error:
        raise ResxError(f"{name}: onnxruntime cannot open it: {first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise MissingCapability(
            f"--device {device}: onnxruntime cannot use it here; `resx doctor` says what is missing"
        )
    return lambda names, inputs: session.run(names, inputs, run_options)


class Sessions:
    """A file in as many sessions as it has instances; each computes one batch at a time."""

    def __init__(
        self, file: Path | bytes, model: Model, config: dict[str, Any], *, instances: int, device: Device
    ) -> None:
        """Open them.

        Raises:
            ResxError: as `open_file`.
        """
        self._name = model.name
        self._runtime = "OpenVINO" if backend_of(config) == OPENVINO else "onnxruntime"
        self._output, self._input = model.interface.output_name, model.interface.input_name
        self._free = [open_file(file, config, device, model.name) for _ in range(instances)]
        self._available = threading.Semaphore(instances)

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the answer [N, classes] to a batch; further axes are flattened.

        Raises:
            ResxError: the runtime fails.
            WrongAnswer: there is not a row for each image.
        """
        with self._available:
            run = self._free.pop()
            try:
                answer = run([self._output], {self._input: x})[0]
            except Exception as error:
                raise ResxError(f"{self._name}: {self._runtime} cannot run it: {first_line(error)}") from error
            finally:
                self._free.append(run)
        answer = np.asarray(answer)
        if answer.ndim == 0 or len(answer) != len(x):
            raise WrongAnswer(f"{self._name} answered {len(x)} images with a tensor {list(answer.shape)}")
        return answer.reshape(len(x), -1).astype(np.float32, copy=False)


def _labels(model_folder: Path, config: dict[str, Any], num_classes: int) -> tuple[str, ...]:
    file = config["output"][0].get("label_filename", "")
    path = model_folder / file
    if not file or not path.is_file():
        return ()
    # As Triton reads it: LF alone ends a line, and an empty line is a class without a name.
    lines = read_bounded(path, MAX_TEXT_BYTES).decode("utf-8", "backslashreplace").removesuffix("\n").split("\n")
    labels = tuple(line.removesuffix("\r") for line in lines)
    if bad := [label for label in labels if label and not is_label(label, with_tabs=True)]:
        raise UsageError(f"{path}: '{one_line(bad[0][:100])}': {LABEL_RULE}; fix the file")
    if any(labels[num_classes:]):
        raise UsageError(
            f"{path}: {len(labels)} lines for {num_classes} classes; write one label per class, in class order"
        )
    return labels


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Say of which model the backend's code refuses something, which it does by ValueError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{name}: {first_line(error)}") from error
