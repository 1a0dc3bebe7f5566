"""A version's ONNX file opened as the backend `onnxruntime` serves it, in the server or in any other process.

It imports numpy, onnxruntime and the files beside it; nothing of resx, nothing of the server.
"""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any, NamedTuple

import config_values
import device_runs
import engine_cache
import execution_providers
import file_interface
import session_settings

MODEL_FILE = "model.onnx"
ON_CPU: "list[execution_providers.Provider]" = [(execution_providers.CPU, {})]
TYPES = {
    "tensor(bool)": "TYPE_BOOL", "tensor(uint8)": "TYPE_UINT8", "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32", "tensor(uint64)": "TYPE_UINT64", "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16", "tensor(int32)": "TYPE_INT32", "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16", "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64",
}  # fmt: skip
"""onnxruntime's names and Triton's. Strings and bfloat16 cannot cross DLPack into numpy."""


class OpenedModel(NamedTuple):
    """A model file, ready to compute."""

    session: Any
    run: Any
    """Takes the outputs' names, the inputs by name and the options; gives the outputs."""
    options: Any

    @property
    def interface(self) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts]]":
        """Its inputs and outputs."""
        return describe(self.session)

    @property
    def threads(self) -> int:
        """Of the processor, for one run."""
        return int(self.session.get_session_options().intra_op_num_threads)

    def close(self) -> None:
        """Nothing: its memory goes with the session."""


def open_model(
    path: str, config: dict[str, Any], host: config_values.Host, kind: str = "CPU", device: int = 0
) -> OpenedModel:
    """Open the file for an instance of this kind, on this GPU if it is one for a GPU."""
    providers = engine_cache.place(
        _providers(kind, device, config), Path(path), engine_cache.folder_for(device, os.environ)
    )
    session = open_session(path, config, host, providers)
    run = _runs(session, providers, device, config.get("max_batch_size", 0))
    return OpenedModel(session, run, session_settings.run_options(config, kind, device))


def open_session(
    path: str,
    config: dict[str, Any],
    host: config_values.Host,
    providers: "list[execution_providers.Provider] | None" = None,
) -> Any:
    """Return onnxruntime's session over the file, set up as the configuration says; without providers on the CPU."""
    providers = providers or ON_CPU
    file_interface.require_file(path)
    for name, value in execution_providers.environment_of(providers).items():
        os.environ.setdefault(name, value)
    try:
        session = _session(path, config, host, providers)
    except Exception:
        if not engine_cache.forget(providers):
            raise
        session = _session(path, config, host, providers)
    if missing := [name for name, _ in providers if name not in session.get_providers()]:
        execution_providers.require_loaded(providers, session.get_providers(), _why_not_loaded(missing[0]))
    return session


def _session(
    path: str, config: dict[str, Any], host: config_values.Host, providers: "list[execution_providers.Provider]"
) -> Any:
    # Imported here: Triton runs `auto_complete_config` in a process of its own at every load.
    import onnxruntime

    # Without this onnxruntime goes on with CUDA or the CPU after an error of the provider, now or in a later run.
    options = session_settings.session_options(config, host)
    return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)


def describe(session: Any) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts]]":
    """Return what the file says of its inputs and outputs."""
    inputs, outputs = (
        [
            file_interface.type_facts(
                tensor.name, tensor.type, tuple(size if isinstance(size, int) else -1 for size in tensor.shape), TYPES
            )
            for tensor in tensors
        ]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def describe_file(
    path: str, _config: dict[str, Any], host: config_values.Host
) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts], int]":
    """Return a file's inputs, its outputs and its largest batch."""
    return (*describe(open_session(path, {}, host)), file_interface.DEFAULT_MAX_BATCH)


def complete(config: dict[str, Any], session: Any) -> None:
    """Write the session's inputs and outputs, its largest batch and the batcher into the configuration."""
    file_interface.complete(config, *describe(session), file_interface.DEFAULT_MAX_BATCH)


def model_path(folder: str, config: dict[str, Any]) -> str:
    """Return the file that a version's folder holds."""
    return file_interface.model_path(folder, config, MODEL_FILE)


def _providers(kind: str, device: int, config: dict[str, Any]) -> list[execution_providers.Provider]:
    """Return what an instance computes with; for a GPU the libraries that its packages bring are loaded first."""
    import onnxruntime

    providers = execution_providers.choose(kind, device, config, onnxruntime.get_available_providers())
    if kind == "GPU" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if any(name == execution_providers.TENSORRT_RT for name, _ in providers):
        with contextlib.suppress(ImportError):
            import tensorrt_libs  # noqa: F401  (loads the libraries that the package tensorrt brings)
    return providers


def _why_not_loaded(provider: str) -> str:
    """Return what the loader says of a provider's library: onnxruntime writes it into the log and goes on without."""
    import onnxruntime

    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error)
    return ""


def _runs(session: Any, providers: list[execution_providers.Provider], device: int, max_batch_size: int) -> Any:
    """Return what runs the session: its own `run` on the CPU."""
    if execution_providers.uses_graphs(providers):
        return device_runs.GraphRuns(session, ("cuda", device), max_batch_size)
    return device_runs.BoundRuns(session, ("cuda", device)) if providers != ON_CPU else session.run
