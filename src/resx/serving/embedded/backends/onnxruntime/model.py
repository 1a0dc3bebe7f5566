"""Triton backend `onnxruntime` in Python, for the embedded server.

A folder `backends/onnxruntime/` with this file is a backend of that name, so a repository whose models say
`backend: "onnxruntime"` is served here by this file and in NVIDIA's container by the C++ backend, from the
same bytes. The server's Python runs it; it imports numpy, onnxruntime and the files beside it, nothing of resx.

What of config.pbtxt it honours, in the C++ backend's words (onnxruntime_backend, README and onnxruntime.cc):

    optimization.graph.level             -1 basic, 0 all, 1 extended, 2 none
    intra_op_thread_count                0: the cores, divided by the instances
    inter_op_thread_count, execution_mode (0 sequential, 1 parallel)
    enable_mem_arena, enable_mem_pattern (0, 1, true, false)
    memory.enable_memory_arena_shrinkage as `cpu:0`
    session.*                            any entry of onnxruntime's session configuration
    instance_group, execution_accelerators   as `execution_providers.py` says

and what the file says where config.pbtxt does not (`auto_complete_config`). Two things differ. Spinning is off
unless `session.intra_op.allow_spinning` says 1: a thread that spins takes the core that the next request's
thread needs. And without a thread count the instances share the cores evenly, where each of the C++ backend's
takes all of them.
"""

import contextlib
import ctypes
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import device_runs
import engine_cache
import execution_providers
import file_interface
import request_batches
import triton_python_backend_utils as pb_utils

MODEL_FILE = "model.onnx"
DEFAULT_MAX_BATCH = 4
"""Of a model whose file allows batches and whose config.pbtxt does not say; the C++ backend's number."""
ON_CPU: "list[execution_providers.Provider]" = [(execution_providers.CPU, {})]
CORES = int(os.environ.get("RESX_SERVER_CORES", "0"))
"""That the instances share, as whoever started the server found them, a CPU quota included; 0: those of the mask."""
LOG_SEVERITY = 3
"""Of onnxruntime's own log, which is the server's here: errors."""
TYPES = {
    "tensor(bool)": "TYPE_BOOL", "tensor(uint8)": "TYPE_UINT8", "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32", "tensor(uint64)": "TYPE_UINT64", "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16", "tensor(int32)": "TYPE_INT32", "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16", "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64",
}  # fmt: skip
"""onnxruntime's names and Triton's. Strings and bfloat16 cannot cross DLPack into numpy."""


class TritonPythonModel(request_batches.BatchingModel):
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Fill in what config.pbtxt leaves out, from the file; as the C++ backend's AutoCompleteConfig does."""
        described = config.as_dict()
        if not (described.get("input") and described.get("output")):
            complete(described, open_session(_model_path(pb_utils.get_model_dir(), described), {}))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file; Triton shows what this raises as the reason why the model did not load."""
        config = json.loads(args["model_config"])
        path = _model_path(str(Path(args["model_repository"]) / args["model_version"]), config)
        kind, device = args.get("model_instance_kind", "CPU"), int(args.get("model_instance_device_id", "0"))
        opened = open_model(path, config, kind, device)
        self.session, self.run, self.run_options = opened
        self.prepare(config, path, *opened.interface)

    def finalize(self) -> None:
        """Let go of the session's memory."""
        self.session = self.run = None


class Opened(NamedTuple):
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


def open_model(path: str, config: dict[str, Any], kind: str = "CPU", device: int = 0) -> Opened:
    """Open the file for an instance of this kind, on this GPU if it is one for a GPU."""
    providers = engine_cache.place(
        _providers(kind, device, config), Path(path), engine_cache.folder_for(device, os.environ)
    )
    session = open_session(path, config, providers)
    run = _runs(session, providers, device, config.get("max_batch_size", 0))
    return Opened(session, run, _run_options(config, kind, device))


def open_session(
    path: str, config: dict[str, Any], providers: "list[execution_providers.Provider] | None" = None
) -> Any:
    """Return onnxruntime's session over the file, set up as the configuration says; without providers on the CPU."""
    providers = providers or ON_CPU
    file_interface.require_file(path)
    for name, value in execution_providers.environment_of(providers).items():
        os.environ.setdefault(name, value)
    try:
        session = _session(path, config, providers)
    except Exception:
        if not engine_cache.forget(providers):
            raise
        session = _session(path, config, providers)
    if missing := [name for name, _ in providers if name not in session.get_providers()]:
        execution_providers.require_loaded(providers, session.get_providers(), _why_not_loaded(missing[0]))
    return session


def _session(path: str, config: dict[str, Any], providers: "list[execution_providers.Provider]") -> Any:
    # Imported here: Triton runs `auto_complete_config` in a process of its own at every load.
    import onnxruntime

    # Without this onnxruntime goes on with CUDA or the CPU after an error of the provider, now or in a later run.
    return onnxruntime.InferenceSession(path, _session_options(config), providers=providers, enable_fallback=0)


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


def complete(config: dict[str, Any], session: Any) -> None:
    """Write the session's inputs and outputs, its largest batch and the batcher into the configuration."""
    file_interface.complete(config, *describe(session), DEFAULT_MAX_BATCH)


def _model_path(folder: str, config: dict[str, Any]) -> str:
    return file_interface.model_path(folder, config, MODEL_FILE)


def _session_options(config: dict[str, Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_SEVERITY
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC,
        0: levels.ORT_ENABLE_ALL,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }[_graph_level(config)]
    options.intra_op_num_threads = _count(config, "intra_op_thread_count") or _fair_share(config)
    options.inter_op_num_threads = _count(config, "inter_op_thread_count") or 1
    if _flag(config, "execution_mode", default=False):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = _flag(config, "enable_mem_arena", default=True)
    options.enable_mem_pattern = _flag(config, "enable_mem_pattern", default=True)
    spinning = _flag(config, "session.intra_op.allow_spinning", default=False)
    entries = {key: _text(config, key) for key in config.get("parameters", {}) if key.startswith("session.")}
    for key, value in (entries | {"session.intra_op.allow_spinning": str(int(spinning))}).items():
        options.add_session_config_entry(key, value)
    return options


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


def _run_options(config: dict[str, Any], kind: str = "CPU", device: int = 0) -> Any:
    """Return the options of every run, None for onnxruntime's own."""
    key = "memory.enable_memory_arena_shrinkage"
    if not (devices := _text(config, key)):
        return None
    import onnxruntime

    known = [device for device in devices.split(";") if device]
    if not known or any(device not in ("cpu:0", "gpu:0") for device in known):
        raise ValueError(f"parameter {key}={devices!r} in config.pbtxt: give cpu:0, or cpu:0;gpu:0")
    if not _flag(config, "enable_mem_arena", default=True):
        raise ValueError(f"parameter {key} in config.pbtxt: there is no arena, as enable_mem_arena is off")
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(key, f"cpu:0;gpu:{device}" if kind == "GPU" and "gpu:0" in known else "cpu:0")
    return options


def _graph_level(config: dict[str, Any]) -> int:
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level not in (-1, 0, 1, 2):
        raise ValueError(
            f"optimization.graph.level: {level} in config.pbtxt: give -1 (basic), 0 (all), 1 (extended), 2 (none)"
        )
    return level


def _fair_share(config: dict[str, Any]) -> int:
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
    return max(1, (CORES or len(os.sched_getaffinity(0))) // instances)


def _text(config: dict[str, Any], name: str) -> str:
    return str(config.get("parameters", {}).get(name, {}).get("string_value", "")).strip()


def _count(config: dict[str, Any], name: str) -> int:
    text = _text(config, name) or "0"
    if not text.isdecimal() or int(text) > 1024:
        raise ValueError(f"parameter {name}={text!r} in config.pbtxt: give 0 (the default) to 1024")
    return int(text)


def _flag(config: dict[str, Any], name: str, *, default: bool) -> bool:
    text = _text(config, name).lower()
    if text not in ("", "0", "1", "false", "true"):
        raise ValueError(f"parameter {name}={text!r} in config.pbtxt: give 0 or 1")
    return text in ("1", "true") if text else default
