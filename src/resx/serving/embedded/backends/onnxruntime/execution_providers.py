"""Where an instance of the backend `onnxruntime` computes: onnxruntime's execution providers and their options.

Read from config.pbtxt in the words of NVIDIA's C++ backend (onnxruntime_backend, README and onnxruntime.cc), so that
one configuration means the same in both:

    instance_group kind                   KIND_CPU: the CPU. KIND_GPU: CUDA on the instance's device, never the CPU
    gpu_execution_accelerator `cuda`      its parameters go to the CUDA provider by their own names
    gpu_execution_accelerator `tensorrt`  TensorRT first, CUDA for what it leaves; parameters as in `TENSORRT`
    gpu_mem_limit, arena_extend_strategy, cudnn_conv_algo_search, do_copy_in_default_stream
                                          the older way to set the CUDA provider, with numbers

Two defaults differ. TF32 is off, so that a file in fp32 computes what was verified; `use_tf32` 1 turns it on for CUDA,
NVIDIA_TF32_OVERRIDE=1 in the server's environment for TensorRT. cuDNN chooses its algorithms by heuristics: to try them
all takes over a second for each size of batch of a ResNet-50 (`device_runs.py`).
Where TensorRT keeps its engines: `engine_cache.py`.
KIND_AUTO never comes here: Triton turns it into one of the two by the GPUs that it sees.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Provider: TypeAlias = "tuple[str, dict[str, str]]"

CPU, CUDA, TENSORRT_RT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NUMBERED = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "do_copy_in_default_stream": {"0": "0", "1": "1"},
}
"""The C++ backend's numbers and onnxruntime's words."""
TENSORRT = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
"""Its parameters that have other names in onnxruntime; those that begin with `trt_` have the same."""
NEEDS = {
    CUDA: ("CUDA and cuDNN", "write KIND_CPU"),
    TENSORRT_RT: ("CUDA, cuDNN and TensorRT", "remove gpu_execution_accelerator from config.pbtxt to use CUDA"),
}
"""Of a provider that cannot be loaded, and what else can be done."""
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
"""Read by TensorRT, whose provider has no option for it."""
PRECISIONS = {"FP32": None, "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
GRAPHS = "enable_cuda_graph"


def choose(kind: str, device: int, config: Mapping[str, Any], available: Sequence[str]) -> list[Provider]:
    """Return the providers in the order that onnxruntime is to try them, each with its options.

    Args:
        kind: of the instance, as Triton says it: CPU, GPU or MODEL.
        device: of a GPU instance, as CUDA numbers them.
        config: the model's configuration.
        available: what this build of onnxruntime has.

    Raises:
        ValueError: the configuration asks for what onnxruntime lacks, or for what nobody knows.
    """
    _require_known(config)
    if kind != "GPU":
        return [(CPU, {})]
    accelerators = _gpu_accelerators(config)
    chosen = [(TENSORRT_RT, _tensorrt(accelerators["tensorrt"], device))] if "tensorrt" in accelerators else []
    chosen.append((CUDA, _cuda(config, accelerators.get("cuda", {}), device)))
    if missing := [name for name, _ in chosen if name not in available]:
        raise ValueError(
            f"the instance is of KIND_GPU and onnxruntime lacks {missing[0]}; install onnxruntime-gpu instead of "
            "onnxruntime, or write KIND_CPU"
        )
    return [*chosen, (CPU, {})]


def environment_of(providers: Sequence[Provider]) -> dict[str, str]:
    """Return what the process's environment must say before a session is made, where it says nothing else."""
    in_fp32 = any(
        name == TENSORRT_RT and not any(is_on(options.get(key, "0")) for key in PRECISIONS.values() if key)
        for name, options in providers
    )
    return {TF32_OVERRIDE: "0"} if in_fp32 else {}


def is_on(value: str) -> bool:
    """Say whether an option of onnxruntime is switched on."""
    return value.lower() in ("1", "true")


def require_loaded(wanted: Sequence[Provider], loaded: Sequence[str], reason: str = "") -> None:
    """Check that a session computes where it was told to: onnxruntime takes the CPU where CUDA's libraries fail.

    Args:
        wanted: as `choose` returned them.
        loaded: the session's own providers.
        reason: why a provider's library cannot be loaded, if that is known.

    Raises:
        ValueError: it does not.
    """
    if missing := [name for name, _ in wanted if name not in loaded]:
        needs, otherwise = NEEDS.get(missing[0], ("", ""))
        raise ValueError(
            f"onnxruntime has {missing[0]} but cannot load it{reason and f' ({reason})'}; it needs an NVIDIA driver, "
            f"{needs} of the versions that it was built for; or {otherwise}"
        )


def uses_graphs(providers: Sequence[Provider]) -> bool:
    """Say whether runs are captured as CUDA graphs, which want every tensor at an address that stays."""
    return any(name == CUDA and options.get(GRAPHS) == "1" for name, options in providers)


def _require_known(config: Mapping[str, Any]) -> None:
    accelerators = _accelerators(config)
    if names := [entry["name"] for entry in accelerators.get("cpu_execution_accelerator", [])]:
        raise ValueError(f"cpu_execution_accelerator {names} in config.pbtxt: the embedded server has none; remove it")
    names = [entry["name"] for entry in accelerators.get("gpu_execution_accelerator", [])]
    if unknown := [name for name in names if name not in ("cuda", "tensorrt")]:
        raise ValueError(f"gpu_execution_accelerator {unknown} in config.pbtxt: give cuda or tensorrt")
    if len(set(names)) < len(names):
        raise ValueError(f"gpu_execution_accelerator {names} in config.pbtxt: list each once")


def _accelerators(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("optimization", {}).get("execution_accelerators", {})
    return found


def _gpu_accelerators(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    entries = _accelerators(config).get("gpu_execution_accelerator", [])
    return {entry["name"]: dict(entry.get("parameters", {})) for entry in entries}


def _cuda(config: Mapping[str, Any], parameters: Mapping[str, str], device: int) -> dict[str, str]:
    options = {"device_id": str(device), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    for key in (*NUMBERED, "gpu_mem_limit"):
        value = str(config.get("parameters", {}).get(key, {}).get("string_value", "")).strip()
        if value:
            options[key] = _numbered(key, value)
    for key, value in parameters.items():
        if key == "device_id":
            raise ValueError(
                "gpu_execution_accelerator cuda in config.pbtxt: device_id is set by the instance group's gpus"
            )
        options[key] = _flag(key, value) if key == GRAPHS else _numbered(key, value)
    return options


def _numbered(key: str, value: str) -> str:
    """Return an option in onnxruntime's words; those of the accelerator may be given in them too."""
    words = NUMBERED.get(key)
    if key == "gpu_mem_limit" and not (value.isdecimal() and int(value) > 0):
        raise ValueError(f"{key}={value!r} in config.pbtxt: give a number of bytes above 0")
    if words is None or value in words.values():
        return value
    if value not in words:
        raise ValueError(f"{key}={value!r} in config.pbtxt: give {' or '.join(words)}")
    return words[value]


def _tensorrt(parameters: Mapping[str, str], device: int) -> dict[str, str]:
    options = {"device_id": str(device)}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value.upper() not in PRECISIONS:
                raise ValueError(f"precision_mode={value!r} in config.pbtxt: give {', '.join(PRECISIONS)}")
            if enabled := PRECISIONS[value.upper()]:
                options[enabled] = "1"
        elif key in TENSORRT or key.startswith("trt_"):
            options[TENSORRT.get(key, key)] = {"true": "1", "false": "0"}.get(value.lower(), value)
        else:
            raise ValueError(f"gpu_execution_accelerator tensorrt in config.pbtxt: no parameter {key!r}")
    return options


def _flag(key: str, value: str) -> str:
    known = {"0": "0", "1": "1", "false": "0", "true": "1"}
    if value.lower() not in known:
        raise ValueError(f"{key}={value!r} in config.pbtxt: give 0 or 1")
    return known[value.lower()]
