"""How OpenVINO compiles a version, as config.pbtxt says it in the words of NVIDIA's C++ backend.

Source: github.com/triton-inference-server/openvino_backend, README and src/openvino.cc. Its parameters:

    INFERENCE_NUM_THREADS    threads of a compiled model; never more than the instance's share of the cores
    NUM_STREAMS              a number, AUTO or NUMA: the threads are divided by it. There the instances share one
                             compiled model and its streams; here each is a process with one model and one stream
    PERFORMANCE_HINT         LATENCY (the default), THROUGHPUT, CUMULATIVE_THROUGHPUT
    HINT_BF16                YES: computed in bf16. A processor without it is refused
    TARGET_DEVICE            CPU
    ENABLE_BATCH_PADDING, SKIP_OV_DYNAMIC_BATCHSIZE   nothing here: a batch of any size is computed as it is. There a
                             batch is always the largest, and a smaller one is refused without ENABLE_BATCH_PADDING

Beside them, which the C++ backend does not read:

    INFERENCE_PRECISION_HINT    f32 (the default) or bf16. OpenVINO takes bf16 by itself where the processor has it, and
                                the C++ backend has no word against that
    ENABLE_CPU_PINNING          YES or NO, the default: OpenVINO pins the threads of every process to the same cores, so
                                that two instances, or two models, wait for each other
    CPU_DENORMALS_OPTIMIZATION  YES: denormal numbers count as zero, as `session.set_denormal_as_zero` for onnxruntime
"""

from collections.abc import Mapping, Sequence
from typing import Any

import config_values
from config_values import Host

PRECISION, PRECISIONS = "INFERENCE_PRECISION_HINT", ("F32", "BF16")
HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
_SWITCH = ("YES", "NO")
_EITHER = ("AUTO", "NUMA")
_AT_MOST = 1024


def compile_properties(config: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """Return OpenVINO's properties of one instance's compiled model.

    Raises:
        ValueError: config.pbtxt has a value that cannot be.
    """
    _require_known(config)
    return {
        "PERFORMANCE_HINT": config_values.word(config, "PERFORMANCE_HINT", HINTS) or HINTS[0],
        "INFERENCE_NUM_THREADS": num_threads(config, host.cores),
        "NUM_STREAMS": 1,  # an instance computes one batch after the other
        PRECISION: precision(config),
        "ENABLE_CPU_PINNING": _is_pinned(config),
        "CPU_DENORMALS_OPTIMIZATION": _switch(config, "CPU_DENORMALS_OPTIMIZATION"),
    }


def num_threads(config: Mapping[str, Any], cores: int) -> int:
    """Return the threads of one instance: as many as it is told to use, and its share of the cores at most."""
    share = config_values.fair_share(config, cores)
    asked = _count(config, "INFERENCE_NUM_THREADS")
    return min(share, max(1, asked // _streams(config))) if asked else share


def precision(config: Mapping[str, Any]) -> str:
    """Return what a model is computed in, as OpenVINO names it: f32 or bf16.

    Raises:
        ValueError: the two parameters contradict each other.
    """
    hinted, named = _switch(config, "HINT_BF16"), config_values.word(config, PRECISION, PRECISIONS)
    if hinted and named == "F32":
        raise ValueError(f"parameters HINT_BF16=YES and {PRECISION}=f32 in config.pbtxt: give one of them")
    return "bf16" if hinted or named == "BF16" else "f32"


def require_computable(precision: str, capabilities: Sequence[str]) -> None:
    """Check that the processor computes in a precision, by what OpenVINO says of it.

    Raises:
        ValueError: it does not, and OpenVINO would take fp32 without a word.
    """
    if precision == "bf16" and "BF16" not in capabilities:
        raise ValueError(
            "config.pbtxt asks for bf16 (HINT_BF16, INFERENCE_PRECISION_HINT) and this processor has none (it needs "
            "AVX-512 BF16 or AMX); serve it on one that has, or export the model in fp32 or int8"
        )


def require_cpu(kind: str) -> None:
    """Check that an instance is for the CPU.

    Raises:
        ValueError: it is not.
    """
    if kind != "CPU":
        raise ValueError(
            f"an instance of KIND_{kind} in config.pbtxt: the backend openvino runs on the CPU only, as NVIDIA's does; "
            "write KIND_CPU"
        )


def _require_known(config: Mapping[str, Any]) -> None:
    config_values.word(config, "TARGET_DEVICE", ("CPU",))
    if _switch(config, "RESHAPE_IO_LAYERS"):
        raise ValueError("parameter RESHAPE_IO_LAYERS=YES in config.pbtxt: a file keeps its shapes here; remove it")


def _is_pinned(config: Mapping[str, Any]) -> bool:
    pinned = _switch(config, "ENABLE_CPU_PINNING")
    if pinned and (number := config_values.num_instances(config)) > 1:
        raise ValueError(
            f"parameter ENABLE_CPU_PINNING=YES in config.pbtxt with {number} instances: each would be pinned to the "
            "same cores; remove it, or write count: 1"
        )
    return pinned


def _switch(config: Mapping[str, Any], name: str) -> bool:
    return config_values.word(config, name, _SWITCH) == "YES"


def _count(config: Mapping[str, Any], name: str) -> int:
    return config_values.count(config, name, _AT_MOST)


def _streams(config: Mapping[str, Any]) -> int:
    if config_values.text(config, "NUM_STREAMS").upper() in _EITHER:
        return 1
    return max(1, _count(config, "NUM_STREAMS"))
