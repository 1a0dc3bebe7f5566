"""What a pod needs to start with a model: a configuration that Triton takes, and what its backend runs on.

A manifest of a model that Triton would refuse makes pods that never become ready, so it is not rendered. The rules are
those of Triton's own check, core/src/model_config_utils.cc, as far as they can be told without the server; a test asks
a real one about each.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from resx.card.card import Card
from resx.errors import UsageError
from resx.repository.config_pbtxt import CONFIG_FILE, DATA_TYPES
from resx.runtimes.triton_image import IMAGE
from resx.text import one_line

_FILES = {"onnxruntime": "model.onnx", "openvino": "model.onnx", "tensorrt": "model.plan"}
"""Backends of NVIDIA's image that serve what resx exports."""
NVIDIA = IMAGE.partition("@")[0].rpartition(":")[0]
_CPU, _GPU = 2, 1
"""ModelInstanceGroup.Kind, beside KIND_AUTO, 0."""


def require_startable(config: Any, card: Card, folder: Path, *, gpu: bool) -> None:
    """Check a model's configuration.

    Args:
        config: Triton's ModelConfig.
        card: of the version that is to be served.
        folder: the model's, in the repository.
        gpu: whether each pod has a GPU.

    Raises:
        UsageError: Triton would not load the model; the message says why.
    """
    for fault in itertools.chain(
        config_faults(config, folder), _card_faults(config, card), _device_faults(config, gpu)
    ):
        raise UsageError(f"{folder.name}: {CONFIG_FILE}: {one_line(fault)[:300]}; Triton would not load it")


def require_fitting(card: Card, *, gpu: bool) -> None:
    """Check that a version computes on what the pods have.

    Raises:
        UsageError: it does not.
    """
    if gpu and card.precision == "int8" and card.target == "cpu":
        raise UsageError(
            f"--gpu: {card.name} is int8 quantized for CPUs, which a GPU does not run in int8; remove --gpu, or export "
            "it with --target gpu"
        )
    if card.engine is not None and not gpu:
        raise UsageError(f"{card.name}: is a TensorRT plan, which needs a GPU; give --gpu")


def require_packages(endpoints: tuple[str, ...], image: str) -> None:
    """Check that the image is not one that is known to lack what an image endpoint imports.

    Raises:
        UsageError: it is.
    """
    if endpoints and image.partition("@")[0].partition(":")[0] == NVIDIA:
        raise UsageError(
            f"--image {image}: {endpoints[-1]} needs Pillow, which NVIDIA's image lacks, so no pod becomes ready; set "
            "--image to one that has it (docs/container.md says how to build it), or --no-image-endpoint"
        )


def require_endpoint(config: Any, folder: Path, models: Collection[str]) -> None:
    """Check a model of an image endpoint: its configuration, its code, and the models that it calls.

    Args:
        config: Triton's ModelConfig.
        folder: the model's, in the repository.
        models: all that the server loads.

    Raises:
        UsageError: Triton would not load it.
    """
    missing = [step.model_name for step in config.ensemble_scheduling.step if step.model_name not in models]
    faults = [*config_faults(config, folder), *(f"ensemble_scheduling: no model {name} is served" for name in missing)]
    if config.backend == "python" and not (folder / "1" / "model.py").is_file():
        faults.append("backend python: 1/model.py is missing")
    if faults:
        raise UsageError(f"{folder.name}: {CONFIG_FILE}: {one_line(faults[0])[:300]}; Triton would not load it")


def config_faults(config: Any, folder: Path) -> Iterator[str]:
    """Yield what Triton refuses in any configuration."""
    if config.name and config.name != folder.name:
        yield f"name {config.name}: must be the folder's, {folder.name}"
    if config.max_batch_size < 0:
        yield f"max_batch_size {config.max_batch_size}: give 0 or more"
    is_ensemble = config.HasField("ensemble_scheduling")
    if is_ensemble != (config.platform == "ensemble"):
        yield "platform ensemble and ensemble_scheduling require each other"
    yield from _tensor_faults("input", config.input, folder)
    yield from _tensor_faults("output", config.output, folder)
    yield from _batcher_faults(config)
    for group in config.instance_group:
        if is_ensemble:
            yield "instance_group: an ensemble must have none"
        if group.kind == _CPU and group.gpus:
            yield "instance_group KIND_CPU with gpus"


def _tensor_faults(what: str, tensors: Any, folder: Path) -> Iterator[str]:
    names = [tensor.name for tensor in tensors]
    if not names:
        yield f"no {what}"
    if len(set(names)) < len(names):
        yield f"two {what}s of one name"
    for tensor in tensors:
        if not tensor.name or not tensor.data_type:
            yield f"{what} {tensor.name}: give a name and a data_type"
        if not tensor.dims or any(dim < 1 and dim != -1 for dim in tensor.dims):
            yield f"{what} {tensor.name}: dims {list(tensor.dims)}: give 1 or more, or -1, for each axis"
        label_file = getattr(tensor, "label_filename", "")
        if label_file and not (folder / label_file).is_file():
            yield f"{what} {tensor.name}: label_filename {label_file}: no such file"


def _batcher_faults(config: Any) -> Iterator[str]:
    batching = config.dynamic_batching
    for size in batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            yield f"preferred_batch_size {size}: give 1 to max_batch_size, {config.max_batch_size}"
    if config.response_cache.enable and config.model_transaction_policy.decoupled:
        yield "response_cache with a decoupled model"
    levels, default = batching.priority_levels, batching.default_priority_level
    if (levels or default) and not 1 <= default <= levels:
        yield f"default_priority_level {default}: give 1 to priority_levels, {levels}"
    tensors = {tensor.name for tensor in config.input}
    for sample in config.model_warmup:
        if unknown := sorted(set(sample.inputs) - tensors):
            yield f"model_warmup {sample.name}: no input {unknown[0]}"
        if sample.batch_size > max(1, config.max_batch_size):
            yield f"model_warmup {sample.name}: batch_size {sample.batch_size} above max_batch_size"


def _card_faults(config: Any, card: Card) -> Iterator[str]:
    """Yield where a configuration is not one for the version's file."""
    signature = card.signature
    # Without a name Triton goes by the file's.
    backend = config.backend or next((name for name, file in _FILES.items() if file == card.model_file), "of no name")
    if _FILES.get(backend) != card.model_file:
        yield f"backend {backend}: does not serve {card.model_file}"
    if backend == "openvino" and config.default_model_filename != card.model_file:
        yield f'backend openvino: looks for model.xml; give default_model_filename: "{card.model_file}"'
    fixed = () if signature.batch is None else (signature.batch,)
    if fixed and config.max_batch_size:
        yield f"max_batch_size {config.max_batch_size}: the file takes batches of {signature.batch} only; give 0"
    if card.engine is not None and config.max_batch_size > card.engine.batch_max:
        yield f"max_batch_size {config.max_batch_size}: the plan takes {card.engine.batch_max} at most"
    batch = fixed if config.max_batch_size == 0 else ()
    for what, tensors, name, type_name, dims in (
        ("input", config.input, signature.input_name, DATA_TYPES[signature.input_type], signature.input_dims),
        ("output", config.output, signature.output_name, "TYPE_FP32", signature.output_dims),
    ):
        given = [(tensor.name, _type_name(tensor), tuple(tensor.dims)) for tensor in tensors]
        unbatched = () if config.max_batch_size else (-1,)
        if given not in ([(name, type_name, (*batch, *dims))], [(name, type_name, (*unbatched, *dims))]):
            said = ", ".join(f"{one} {kind} {[*axes]}" for one, kind, axes in given)
            yield f"{what} {said}: the file has {name} {type_name} {[*batch, *dims]}"


def _type_name(tensor: Any) -> str:
    return str(tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name)


def _device_faults(config: Any, gpu: bool) -> Iterator[str]:
    if gpu and config.backend == "openvino":
        yield "backend openvino: computes on the CPU; remove --gpu"
    for group in config.instance_group:
        if group.kind == _GPU and not gpu:
            yield "instance_group KIND_GPU: needs a GPU; give --gpu"
        if any(index != 0 for index in group.gpus):
            yield f"instance_group gpus {list(group.gpus)}: a pod has GPU 0 only"
        if group.gpus and not gpu:
            yield f"instance_group gpus {list(group.gpus)}: needs a GPU; give --gpu"
        if gpu and group.kind == _CPU:
            yield "instance_group KIND_CPU: does not use the GPU; remove --gpu"
