"""Triton backend `onnxruntime` in Python, for the embedded server.

A folder `backends/onnxruntime/` with this file is a backend of that name, so a repository whose models say
`backend: "onnxruntime"` is served here by this file and in NVIDIA's container by the C++ backend, from the
same bytes. The server's Python runs it; it imports numpy, onnxruntime and the files beside it, nothing of resx.

Tensors cross by DLPack in both directions. The stub in nvidia-pytriton 0.7.0 was built against numpy 1:
under numpy 2 `as_numpy()` and `Tensor(name, array)` give wrong or empty data without an error.
The stub marks a capsule that it took as `used_dlpack`, where DLPack says `used_dltensor`; numpy then takes it for
broken and writes a traceback per tensor into the server's log, which cost more than all else here. `_tensor`
puts the mark right.

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

Whether the client has cancelled a request is a question to the server, which answers through two threads and a queue
in shared memory. For each request of a small network that took a tenth of the throughput (resnet20 at 32 px). Triton
drops what is cancelled while it waits in the queue; so the question is asked only where a run takes long enough for it.
"""

import contextlib
import ctypes
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import device_runs
import engine_cache
import execution_providers
import numpy as np
import triton_python_backend_utils as pb_utils

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

MODEL_FILE = "model.onnx"
USED = b"used_dltensor"
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)
DEFAULT_MAX_BATCH = 4
"""Of a model whose file allows batches and whose config.pbtxt does not say; the C++ backend's number."""
WORTH_ASKING_S = 0.02
"""A run that takes longer than this is worth the question whether somebody still waits for it."""
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


class Call(NamedTuple):
    """One request that is to be computed."""

    place: int
    """Of its answer among the batch's."""
    inputs: dict[str, Array]
    outputs: tuple[str, ...]
    """Those that it asks for, in the configuration's order."""

    @property
    def num_rows(self) -> int:
        """Entries along the batch axis."""
        return len(next(iter(self.inputs.values())))


class TritonPythonModel:
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
        self.session, self.run, self.run_options = open_model(path, config, kind, device)
        self.batches = config.get("max_batch_size", 0) > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.optional = {tensor["name"] for tensor in config["input"] if tensor.get("optional")}
        self.scalars = {tensor.name for tensor in self.session.get_inputs() if not tensor.shape}
        self._require_names(path)
        self.last_run_s = 0.0
        self._try_warm_up(config)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests, in their order; those that fit together are computed together."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[object, list[Call]] = {}
        asks = self.last_run_s > WORTH_ASKING_S
        for place, request in enumerate(requests):
            try:
                if asks and request.is_cancelled():
                    answers[place] = _error("the client cancelled the request", pb_utils.TritonError.CANCELLED)
                    continue
                call = self._read(place, request)
            except Exception as error:  # a request must get an answer, whatever happened
                answers[place] = _failure(error)
            else:
                # Triton joins requests of different shapes where the configuration has dims of -1.
                fits = tuple((name, array.shape[1:]) for name, array in call.inputs.items())
                groups.setdefault(fits if self.batches else place, []).append(call)
        begun = time.perf_counter()
        for group in groups.values():
            self._answer(group, answers)
        if groups:
            self.last_run_s = time.perf_counter() - begun
        return answers

    def finalize(self) -> None:
        """Let go of the session's memory."""
        self.session = self.run = None

    def _read(self, place: int, request: Any) -> Call:
        inputs = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                if name in self.optional:
                    continue
                raise ValueError(f"input {name!r} is missing")
            array = np.from_dlpack(_Handed(tensor.to_dlpack()))
            inputs[name] = array.reshape(()) if name in self.scalars else array
        wanted = set(request.requested_output_names())
        return Call(place, inputs, tuple(name for name in self.outputs if name in wanted))

    def _answer(self, group: list[Call], answers: list[Any]) -> None:
        """Compute the calls in one run and put their responses in their places."""
        try:
            for call, parts in zip(group, self._run(group), strict=True):
                answers[call.place] = _response(parts)
        except Exception as error:
            if len(group) == 1:
                answers[group[0].place] = _failure(error)
                return
            # One request's fault must not fail the batch that Triton happened to put it in.
            for call in group:
                self._answer([call], answers)

    def _run(self, group: list[Call]) -> list[dict[str, Array]]:
        """Run the session once; return per call its part of each output that it asked for."""
        names = [name for name in self.outputs if any(name in call.outputs for call in group)]
        if len(group) == 1:
            results = self.run(names, group[0].inputs, self.run_options)
            if self.batches:
                _require_rows(names, results, group[0].num_rows)
            return [dict(zip(names, results, strict=True))]
        joined = {name: np.concatenate([call.inputs[name] for call in group]) for name in group[0].inputs}
        results = self.run(names, joined, self.run_options)
        ends = list(itertools.accumulate(call.num_rows for call in group))
        _require_rows(names, results, ends[-1])
        whole = dict(zip(names, results, strict=True))
        bounds = zip((0, *ends), ends, strict=False)  # np.split takes ten times as long
        return [
            {name: whole[name][start:stop] for name in call.outputs}
            for call, (start, stop) in zip(group, bounds, strict=True)
        ]

    def _try_warm_up(self, config: dict[str, Any]) -> None:
        """Run the zeros that Triton warms this up with: it may not survive a failure of its own, and survives this one.

        Other data cannot be known here; resx loads no model with them.
        """
        for sample in config.get("model_warmup", []):
            tensors = sample.get("inputs", {})
            if not all(tensor.get("zero_data") for tensor in tensors.values()):
                continue
            rows = [int(sample.get("batch_size", 1))] if self.batches else []
            inputs = {
                name: np.zeros([*rows, *map(int, tensor.get("dims", []))], _dtype(tensor["data_type"]))
                for name, tensor in tensors.items()
            }
            try:
                results = self.run(self.outputs, inputs, self.run_options)
                if self.batches:
                    _require_rows(self.outputs, results, *rows)
            except Exception as error:
                raise ValueError(f"its warm-up fails: {error}; take model_warmup out of config.pbtxt") from error

    def _require_names(self, path: str) -> None:
        for what, configured, tensors in (
            ("input", self.inputs, self.session.get_inputs()),
            ("output", self.outputs, self.session.get_outputs()),
        ):
            known = [tensor.name for tensor in tensors]
            unknown = [name for name in configured if name not in known]
            if unknown:
                raise ValueError(f"config.pbtxt names {what} {unknown}, but {path} has {known}")
            for tensor in tensors:
                if tensor.name in configured:
                    _require_served(tensor)


class Opened(NamedTuple):
    """A model file, ready to compute."""

    session: Any
    run: Any
    """Takes the outputs' names, the inputs by name and the options; gives the outputs."""
    options: Any


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
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; default_model_filename in config.pbtxt names another")
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


def complete(config: dict[str, Any], session: Any) -> None:
    """Write the session's inputs and outputs, its largest batch and the batcher into the configuration."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    batches = all(tensor.shape and not isinstance(tensor.shape[0], int) for tensor in (*inputs, *outputs))
    if config.get("max_batch_size", 0) and not batches:
        raise ValueError(
            f"max_batch_size: {config['max_batch_size']}, but the first axis of an input or output is fixed; write 0"
        )
    if batches and not config.get("max_batch_size"):
        config["max_batch_size"] = DEFAULT_MAX_BATCH
    if config["max_batch_size"] > 1 and "sequence_batching" not in config:
        config.setdefault("dynamic_batching", {})
    for key, tensors in (("input", inputs), ("output", outputs)):
        if not config.get(key):
            config[key] = [_described(tensor, batches=batches) for tensor in tensors]


def _require_served(tensor: Any) -> None:
    if tensor.type not in TYPES:
        raise ValueError(f"{tensor.name} is a {tensor.type}; this backend serves {', '.join(TYPES)}")


def _described(tensor: Any, *, batches: bool) -> dict[str, Any]:
    _require_served(tensor)
    dims = [size if isinstance(size, int) else -1 for size in tensor.shape][1 if batches else 0 :]
    described = {"name": tensor.name, "data_type": TYPES[tensor.type], "dims": dims or [1]}
    # Triton has no empty dims: one number per row is dims 1, which it takes away again.
    return described | {"reshape": {"shape": []}} if batches and not dims else described


def _model_path(folder: str, config: dict[str, Any]) -> str:
    name = config.get("default_model_filename") or MODEL_FILE
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"default_model_filename {name!r} leads out of the version's folder")
    path = Path(folder) / name
    return str(path / MODEL_FILE if path.is_dir() else path)


def _session_options(config: dict[str, Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_SEVERITY
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC, 0: levels.ORT_ENABLE_ALL,
        1: levels.ORT_ENABLE_EXTENDED, 2: levels.ORT_DISABLE_ALL,
    }[_graph_level(config)]  # fmt: skip
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


class _Handed:
    """A capsule as numpy asks for one; the stub's tensor is asked in a way that it does not know first, and raises."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_asked: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU


def _dtype(name: str) -> str:
    """Return numpy's name of one of Triton's types."""
    kind = name.removeprefix("TYPE_").lower()
    return f"float{kind[2:]}" if kind.startswith("fp") else kind


def _require_rows(names: list[str], results: list[Array], num_rows: int) -> None:
    """Refuse an answer that has no row for each that was asked: nobody could tell whose are missing."""
    for name, result in zip(names, results, strict=True):
        if result.ndim == 0 or len(result) != num_rows:
            raise ValueError(f"output {name!r} of shape {list(result.shape)} for {num_rows} rows of input")


def _response(parts: dict[str, Array]) -> Any:
    # A tensor of no axes has no dims in config.pbtxt; it is [1] there.
    tensors = [_tensor(name, part if part.ndim else part.reshape(1)) for name, part in parts.items()]
    return pb_utils.InferenceResponse(tensors)


def _tensor(name: str, array: Array) -> Any:
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, USED)
    return tensor


def _failure(error: Exception) -> Any:
    """Return what the client gets: its own mistake if onnxruntime calls it one, else the server's."""
    kind = type(error).__name__
    mistaken = isinstance(error, ValueError) or kind == "InvalidArgument"
    code = pb_utils.TritonError.INVALID_ARG if mistaken else pb_utils.TritonError.INTERNAL
    return _error(f"{kind}: {error}", code)


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
