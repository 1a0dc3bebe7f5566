"""A version's file opened as the backend `openvino` serves it, in the server or in any other process.

It imports numpy, openvino and the files beside it; nothing of resx, nothing of the server.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import compile_settings
import config_values
import file_interface
import fixed_batches
import inference_runs

MODEL_FILE = "model.xml"
"""What NVIDIA's C++ backend looks for where config.pbtxt names no file."""
TYPES = {
    "boolean": "TYPE_BOOL", "u8": "TYPE_UINT8", "u16": "TYPE_UINT16", "u32": "TYPE_UINT32", "u64": "TYPE_UINT64",
    "i8": "TYPE_INT8", "i16": "TYPE_INT16", "i32": "TYPE_INT32", "i64": "TYPE_INT64", "f16": "TYPE_FP16",
    "f32": "TYPE_FP32", "f64": "TYPE_FP64",
}  # fmt: skip
"""OpenVINO's names and Triton's. Strings and bfloat16 cannot cross DLPack into numpy."""


class OpenedModel(NamedTuple):
    """A model file, ready to compute."""

    run: inference_runs.InferenceRuns
    """Takes the outputs' names, the inputs by name and the options; gives the outputs."""
    interface: "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts]]"
    threads: int
    """Of the processor, for one run."""

    @property
    def options(self) -> None:
        """There are none."""

    def close(self) -> None:
        """Nothing: its memory goes with the run."""


def load_openvino() -> Any:
    """Import openvino so that it reports nothing to anybody, and writes nothing into the user's home.

    Its tools take `openvino_telemetry` where it is installed, and do without where it is not.

    Raises:
        ValueError: it cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:  # the latter: its libraries are missing
        raise ValueError(f"openvino cannot be imported ({error}); pip install 'resx[openvino]'") from error
    return openvino


def capabilities(core: Any = None) -> Sequence[str]:
    """Return what OpenVINO says that the processor computes in."""
    found: Sequence[str] = (core or load_openvino().Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def open_model(
    path: str,
    config: dict[str, Any],
    host: config_values.Host,
    kind: str = "CPU",
    _device: int = 0,
    *,
    core: Any = None,
) -> OpenedModel:
    """Open the file for an instance.

    Args:
        path: of the file.
        config: the model's configuration.
        host: what the process that opens it has.
        kind: of the instance, as Triton says it.
        core: OpenVINO's; None: a new one.

    Raises:
        ValueError: openvino is missing or refuses the file, the instance is not for the CPU, the processor has not the
            precision, or config.pbtxt has a value that cannot be.
    """
    compile_settings.require_cpu(kind)
    properties = compile_settings.compile_properties(config, host)
    core = core or load_openvino().Core()
    compile_settings.require_computable(properties[compile_settings.PRECISION], capabilities(core))
    model = _read(core, path)
    try:
        requests = fixed_batches.create_requests(core, model, config, properties)
    except RuntimeError as error:
        raise ValueError(f"{path}: OpenVINO cannot compile it: {inference_runs.reason_of(error)}") from error
    interface = _described(model)
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in interface)
    ports = dict(zip(inputs, model.inputs, strict=True))
    run = inference_runs.InferenceRuns(load_openvino().Tensor, requests, ports, outputs)
    return OpenedModel(run, interface, properties["INFERENCE_NUM_THREADS"])


def describe_file(
    path: str, _config: dict[str, Any], _host: config_values.Host
) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts], int]":
    """Return a file's inputs, its outputs and its largest batch."""
    return (*_described(_read(load_openvino().Core(), path)), file_interface.DEFAULT_MAX_BATCH)


def model_path(folder: str, config: dict[str, Any]) -> str:
    """Return the file that a version's folder holds."""
    return file_interface.model_path(folder, config, MODEL_FILE)


def _read(core: Any, path: str) -> Any:
    file_interface.require_file(path)
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path}: OpenVINO rejects it: {inference_runs.reason_of(error)}") from error


def _described(model: Any) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts]]":
    return [_facts(port) for port in model.inputs], [_facts(port) for port in model.outputs]


def _facts(port: Any) -> file_interface.TensorFacts:
    name, kind, shape = port.any_name, port.element_type.get_type_name(), port.partial_shape
    if shape.rank.is_dynamic:
        return file_interface.TensorFacts(name, "", (), f"{name} has no fixed number of axes, which Triton needs")
    sizes = tuple(-1 if size.is_dynamic else size.get_length() for size in shape)
    return file_interface.type_facts(name, kind, sizes, TYPES)
