"""The backend `openvino`, as config.pbtxt asks for it: NVIDIA's C++ backend and the embedded one read the same bytes.

    default_model_filename     without it the C++ backend looks for model.xml
    INFERENCE_PRECISION_HINT   f32 or bf16. The embedded backend's; the C++ one does not know it
    HINT_BF16                  YES: the C++ backend's word for bf16. It has none for f32: where the processor has BF16,
                               it computes an f32 version in bf16, and the self-test refuses that
    PERFORMANCE_HINT           LATENCY
    NUM_STREAMS                requests that run at the same time: the instances
    INFERENCE_NUM_THREADS      of all streams together; absent: the server's cores
    ENABLE_CPU_PINNING         NO. The embedded backend's: its instances are processes, and pinned they would all begin
                               with the first core. Those of the C++ backend are streams of one process
    CPU_DENORMALS_OPTIMIZATION YES: numbers below 1.2e-38 count as 0. The embedded backend's
    ENABLE_BATCH_PADDING       YES where a batch may have several rows: the C++ backend compiles for the largest batch
                               alone, refuses others, and fills up to it with this. The embedded one takes every size
    instance_group             KIND_CPU: the C++ backend refuses any other

Source: github.com/triton-inference-server/openvino_backend, README and src/openvino.cc, read at db19304 (August 2026).
"""

from __future__ import annotations

from typing import Any

from resx.card.card import Card
from resx.repository.cuda_provider import CUDNN_SEARCH, cuda_parameters

NAME = "openvino"
_PRECISION, _HINT_BF16 = "INFERENCE_PRECISION_HINT", "HINT_BF16"
_STREAMS, _THREADS, _PADDING = "NUM_STREAMS", "INFERENCE_NUM_THREADS", "ENABLE_BATCH_PADDING"
_ALWAYS = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "NO", "CPU_DENORMALS_OPTIMIZATION": "YES"}
_ONNXRUNTIME_THREADS = "intra_op_thread_count"


def add_openvino(message: Any, card: Card, *, instances: int, threads: int) -> None:
    """Have OpenVINO compute a configuration whose inputs and largest batch are set already.

    Args:
        message: Triton's ModelConfig.
        card: of the version.
        instances: that run at the same time.
        threads: of one of them; 0 leaves it to the server.
    """
    message.backend = NAME
    message.instance_group.add(count=instances, kind="KIND_CPU")
    parameters = _ALWAYS | {_STREAMS: str(instances)}
    if threads:
        parameters[_THREADS] = str(instances * threads)
    if message.max_batch_size > 1:
        parameters[_PADDING] = "YES"
    for key, value in parameters.items():
        message.parameters[key].string_value = value
    _set_precision(message, card)


def fit_runtime(message: Any, card: Card, newest: Card) -> None:
    """Let a configuration say what the version with this card is computed by, and in.

    One model's versions may differ in it: `resx export --bf16`, or `resx tune`, after an export for onnxruntime.

    Args:
        message: Triton's ModelConfig, which was written for the newest version.
        card: of the version that is to be loaded.
        newest: of that one. Where it is computed alike the configuration stays, edits by hand included.
    """
    if card.engine is not None or computed_alike(card, newest):
        return
    if card.runtime_name == NAME:
        if message.backend != NAME:
            _leave_onnxruntime(message, card)
        _set_precision(message, card)
    elif message.backend == NAME:
        _leave_openvino(message, card)


def computed_alike(one: Card, other: Card) -> bool:
    """Say whether two versions can be loaded together: a model has one configuration."""
    return _computed_by(one) == _computed_by(other)


def _computed_by(card: Card) -> tuple[str, str | None, str]:
    return card.runtime_name, None if card.runtime is None else card.runtime.precision_hint, card.model_file


def _set_precision(message: Any, card: Card) -> None:
    hint = card.runtime.precision_hint if card.runtime else None
    message.default_model_filename = card.model_file
    message.parameters[_PRECISION].string_value = hint or "f32"
    if hint == "bf16":
        message.parameters[_HINT_BF16].string_value = "YES"
    else:
        _remove(message, _HINT_BF16)


def _leave_onnxruntime(message: Any, card: Card) -> None:
    instances, threads = _num_instances(message), _number(message, _ONNXRUNTIME_THREADS)
    _remove(message, _ONNXRUNTIME_THREADS, CUDNN_SEARCH)
    del message.instance_group[:]
    add_openvino(message, card, instances=instances, threads=threads)


def threads_of(message: Any) -> int:
    """Return the threads of an instance by a configuration of this backend; 0 where it leaves them to the server."""
    return _number(message, _THREADS) // max(1, _number(message, _STREAMS))


def set_threads(message: Any, threads: int) -> None:
    """Give each instance of a configuration of this backend so many threads; 0 leaves them to the server."""
    instances = _num_instances(message)
    message.parameters[_STREAMS].string_value = str(instances)
    _remove(message, _THREADS)
    if threads:
        message.parameters[_THREADS].string_value = str(instances * threads)


def container_remark(message: Any) -> str:
    """Return what NVIDIA's C++ backend does otherwise than the embedded one; empty where that is nothing."""
    if message.backend != NAME:
        return ""
    said = []
    if message.max_batch_size > 1:
        said.append(f"computes each request as a batch of {message.max_batch_size} (export with --max-batch 1)")
    if _HINT_BF16 not in message.parameters:
        said.append("computes in bf16 on nodes that have BF16, where the self-test fails (export with --bf16)")
    return f"{message.name}: NVIDIA's backend openvino {' and '.join(said)}" if said else ""


def _leave_openvino(message: Any, card: Card) -> None:
    threads = threads_of(message)
    _remove(message, *_ALWAYS, _PRECISION, _HINT_BF16, _STREAMS, _THREADS, _PADDING)
    for group in message.instance_group:
        group.ClearField("kind")
    message.backend = "onnxruntime"
    message.ClearField("default_model_filename")
    if threads:
        message.parameters[_ONNXRUNTIME_THREADS].string_value = str(threads)
    for key, value in cuda_parameters(card).items():
        message.parameters[key].string_value = value


def _num_instances(message: Any) -> int:
    return sum(max(1, group.count) for group in message.instance_group) or 1


def _number(message: Any, key: str) -> int:
    text = message.parameters[key].string_value if key in message.parameters else ""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _remove(message: Any, *keys: str) -> None:
    for key in keys:
        if key in message.parameters:
            del message.parameters[key]
