"""TensorRT inside onnxruntime, as config.pbtxt asks for it.

The words are those of NVIDIA's C++ backend, which refuses any other (onnxruntime_backend, README and onnxruntime.cc),
so one configuration serves in its container and in the embedded server. It names no folder for the engines: in the
container they go to the server's working folder, embedded to the cache folder (`provider_engines.py`).
"""

from __future__ import annotations

from typing import Any

from resx.card.card import Card

NAME = "tensorrt"
_LIMITS = {"min": 1, "opt": 0, "max": 0}
"""Of the batch, in a profile; 0: the largest."""


def add_tensorrt(message: Any, card: Card) -> None:
    """Ask for TensorRT in a configuration whose inputs and largest batch are set already.

    The profile has one engine serve all batches. Without it TensorRT builds another one whenever a larger or a smaller
    batch comes than before, while the request waits.
    """
    accelerator = message.optimization.execution_accelerators.gpu_execution_accelerator.add(name=NAME)
    accelerator.parameters["precision_mode"] = _mode_of(card)
    accelerator.parameters["trt_engine_cache_enable"] = "1"
    accelerator.parameters["trt_timing_cache_enable"] = "1"
    can_be_in_a_profile = not {":", ","} & set(card.signature.input_name)  # they divide its text
    if message.max_batch_size and can_be_in_a_profile:
        for limit in _LIMITS:
            accelerator.parameters[f"trt_profile_{limit}_shapes"] = ""
        fit_profile(message)


def fit_profile(message: Any) -> None:
    """Let the profile, if there is one, cover the configuration's batches."""
    for accelerator in message.optimization.execution_accelerators.gpu_execution_accelerator:
        for limit, batch in _LIMITS.items():
            key = f"trt_profile_{limit}_shapes"
            if accelerator.name == NAME and key in accelerator.parameters:
                accelerator.parameters[key] = ",".join(
                    f"{tensor.name}:{'x'.join(map(str, (batch or message.max_batch_size, *tensor.dims)))}"
                    for tensor in message.input
                )


def fit_precision(message: Any, card: Card) -> None:
    """Let the configuration, which is the newest version's, say the precision of the version with this card."""
    for accelerator in message.optimization.execution_accelerators.gpu_execution_accelerator:
        if accelerator.name == NAME and card.accelerator is not None:
            accelerator.parameters["precision_mode"] = _mode_of(card)


def asks_for_tensorrt(message: Any) -> bool:
    """Say whether a configuration has TensorRT compute its instances on a GPU."""
    accelerators = message.optimization.execution_accelerators.gpu_execution_accelerator
    return any(accelerator.name == NAME for accelerator in accelerators)


def _mode_of(card: Card) -> str:
    # A third party's file in 16 bits is published as it is, by the name fp32.
    is_half = card.precision == "fp32" and card.fp16_share > 0
    return "FP16" if is_half else card.precision.upper()
