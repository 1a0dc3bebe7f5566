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
from resx.card.runtime import PrecisionHint

NAME = "openvino"
PRECISION, _HINT_BF16, THREADS = "INFERENCE_PRECISION_HINT", "HINT_BF16", "INFERENCE_NUM_THREADS"
STREAMS = "NUM_STREAMS"


def add_openvino(message: Any, card: Card, *, instances: int, threads: int) -> None:
    """Have OpenVINO compute a configuration whose inputs and largest batch are set already.

    Args:
        message: Triton's ModelConfig.
        card: of the version.
        instances: that run at the same time.
        threads: of one of them; 0 leaves it to the server.
    """
    message.backend = NAME
    message.default_model_filename = card.model_file
    message.instance_group.add(count=instances, kind="KIND_CPU")
    parameters = {
        "PERFORMANCE_HINT": "LATENCY",
        STREAMS: str(instances),
        "ENABLE_CPU_PINNING": "NO",
        "CPU_DENORMALS_OPTIMIZATION": "YES",
    }
    if threads:
        parameters[THREADS] = str(instances * threads)
    if message.max_batch_size > 1:
        parameters["ENABLE_BATCH_PADDING"] = "YES"
    for key, value in parameters.items():
        message.parameters[key].string_value = value
    fit_precision(message, card)


def fit_precision(message: Any, card: Card) -> None:
    """Let the configuration, which is the newest version's, say the precision of the version with this card."""
    if message.backend != NAME or card.runtime is None or card.runtime.precision_hint is None:
        return
    hint: PrecisionHint = card.runtime.precision_hint
    message.default_model_filename = card.model_file
    message.parameters[PRECISION].string_value = hint
    if hint == "bf16":
        message.parameters[_HINT_BF16].string_value = "YES"
    elif _HINT_BF16 in message.parameters:
        del message.parameters[_HINT_BF16]
