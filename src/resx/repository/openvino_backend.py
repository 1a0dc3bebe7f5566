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


def fit_runtime(message: Any, card: Card) -> None:
    """Let a configuration, which is the newest version's, say what the version with this card is computed by, and in.

    One model's versions may differ in it: `resx export --bf16`, or `resx tune`, after an export for onnxruntime.
    """
    if card.engine is not None:
        return
    if card.runtime_name == NAME:
        if message.backend != NAME:
            _leave_onnxruntime(message, card)
        _set_precision(message, card)
    elif message.backend == NAME:
        _leave_openvino(message)


def computed_alike(one: Card, other: Card) -> bool:
    """Say whether two versions can be loaded together: a model has one configuration."""
    return _computed_by(one) == _computed_by(other)


def _computed_by(card: Card) -> tuple[str, str | None]:
    return card.runtime_name, None if card.runtime is None else card.runtime.precision_hint


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
    _remove(message, _ONNXRUNTIME_THREADS)
    del message.instance_group[:]
    add_openvino(message, card, instances=instances, threads=threads)


def _leave_openvino(message: Any) -> None:
    threads = _number(message, _THREADS) // max(1, _number(message, _STREAMS))
    _remove(message, *_ALWAYS, _PRECISION, _HINT_BF16, _STREAMS, _THREADS, _PADDING)
    for group in message.instance_group:
        group.ClearField("kind")
    message.backend = "onnxruntime"
    message.ClearField("default_model_filename")
    if threads:
        message.parameters[_ONNXRUNTIME_THREADS].string_value = str(threads)


def _num_instances(message: Any) -> int:
    return sum(max(1, group.count) for group in message.instance_group) or 1


def _number(message: Any, key: str) -> int:
    text = message.parameters[key].string_value if key in message.parameters else ""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _remove(message: Any, *keys: str) -> None:
    for key in keys:
        if key in message.parameters:
            del message.parameters[key]
