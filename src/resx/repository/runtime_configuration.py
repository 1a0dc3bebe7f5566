"""A model's configuration moved to the runtime of one of its versions.

config.pbtxt names one backend, of the newest version. `resx tune` may publish a version that another runtime computes;
those before it are loaded under the configuration that theirs asks for.
"""

from __future__ import annotations

from typing import Any

from resx.card.card import Card
from resx.card.runtime import RUNTIMES
from resx.errors import UsageError
from resx.repository import openvino_backend, tensorrt_accelerator
from resx.repository.config_pbtxt import CONFIG_FILE, ServingOptions, config_message, instances_per_device
from resx.text import one_line

INTRA_OP_THREADS = "intra_op_thread_count"
"""onnxruntime's parameter."""


def fit_version(message: Any, card: Card) -> None:
    """Let a configuration say the runtime of the version with this card, and its precision, if it is read there."""
    fit_runtime(message, card)
    if tensorrt_accelerator.asks_for_tensorrt(message):
        tensorrt_accelerator.fit_precision(message, card)
    elif message.backend == openvino_backend.NAME:
        openvino_backend.fit_precision(message, card)


def fit_runtime(message: Any, card: Card) -> None:
    """Let a configuration of an ONNX file name the runtime of the version with this card, if it names the other.

    Instances and their threads, batches, queue and whatever is resx's own stay; what only the other runtime reads goes.
    """
    if card.engine is not None or message.backend not in RUNTIMES or message.backend == card.runtime_name:
        return
    serving = ServingOptions(instances=instances_per_device(message), threads=threads_of(message))
    fresh = config_message(card, serving)
    for key in [key for key in message.parameters if not key.startswith("resx.")]:
        del message.parameters[key]
    for key, parameter in fresh.parameters.items():
        message.parameters[key].CopyFrom(parameter)
    message.backend, message.default_model_filename = fresh.backend, fresh.default_model_filename
    message.ClearField("optimization")  # accelerators and graph levels, of onnxruntime alone
    del message.instance_group[:]
    message.instance_group.extend(fresh.instance_group)


def threads_of(message: Any) -> int:
    """Return the threads of one instance that a configuration asks for; 0 leaves them to the server.

    Raises:
        UsageError: the parameter is no number.
    """
    if message.backend == openvino_backend.NAME:
        return (number_in(message, openvino_backend.THREADS) or 0) // instances_per_device(message)
    return number_in(message, INTRA_OP_THREADS) or 0


def set_threads(message: Any, threads: int) -> None:
    """Let each instance have so many threads; 0 leaves them to the server. The instances are set already."""
    if message.backend != openvino_backend.NAME:
        message.parameters[INTRA_OP_THREADS].string_value = str(threads)
        return
    instances = instances_per_device(message)
    message.parameters[openvino_backend.STREAMS].string_value = str(instances)
    message.parameters.pop(openvino_backend.THREADS, None)
    if threads:
        message.parameters[openvino_backend.THREADS].string_value = str(instances * threads)


def number_in(message: Any, key: str) -> int | None:
    """Return the whole number that a parameter says; None: it is absent.

    Raises:
        UsageError: it is no such number.
    """
    text = text_in(message, key)
    if text and not (text.isascii() and text.isdecimal()):
        raise UsageError(
            f"{message.name}: {CONFIG_FILE}: {key}={one_line(text[:40])!r}: give a whole number, 0 or more"
        )
    return int(text) if text else None


def text_in(message: Any, key: str) -> str:
    """Return what a parameter says; empty if it is absent."""
    return str(message.parameters[key].string_value).strip() if key in message.parameters else ""
