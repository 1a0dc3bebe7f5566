"""The export as a sequence of steps: fold, check, write, check, describe.

It fills a folder that the caller staged; publishing the folder is the caller's act, so a failure at any
step leaves nothing behind.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import torch

from resx._version import __version__
from resx.card import canary_rows, int8_processor
from resx.card import card as cards
from resx.card.canary_rows import Canary
from resx.card.card import Card
from resx.card.kinds import Precision
from resx.card.parity_result import GpuParity, Parity
from resx.card.precision import Quantisation
from resx.card.signature import Signature
from resx.errors import ExportError, ParityError
from resx.export.combinations import require_computable
from resx.export.gpu_parity import compare_on_cuda
from resx.export.graph.resnext_form import STEP as GROUPED_FORM
from resx.export.graph.tensorrt_form import name_after_contents
from resx.export.int8.int8_file import FileForm, Int8Options, write_int8
from resx.export.int8.nncf_quantization import Validation
from resx.export.options import ExportOptions
from resx.export.reference import Exportable, Reference, ask_source
from resx.files.disk_space import require_free_space
from resx.files.staging import sha256_of
from resx.runtimes import onnx_reader
from resx.runtimes.external_data import require_within_limit
from resx.runtimes.model_file import CpuModel, describe_runtime
from resx.runtimes.onnxruntime_model import require_bf16
from resx.zoo.foreign_names import HUB, TIMM

Announce: TypeAlias = Callable[[str], None]
"""Told what is done next."""

MODEL_FILE = "model.onnx"
_CANARY_IMAGES = 2
_NUM_VALIDATION_IMAGES = 1000
_CANARY_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}


def export_version(
    source: Exportable,
    options: ExportOptions,
    folder: Path,
    *,
    name: str,
    command: str,
    on_step: Announce = lambda _step: None,
) -> Card:
    """Write `model.onnx` and `card.json` into `folder` and return the card.

    Raises:
        UsageError: weights are not finite or pass 2 GB, or a name to keep in fp32 matches nothing.
        ParityError: folding or writing changed what the network computes by more than the tolerance.
        ExportError: the network cannot be folded or written.
        MissingCapability: the runtime is not here, or cannot run bf16, so that nothing could be verified.
        ResxError: the disk has no room for it.
    """
    _require_writable(source, options, folder, name)
    if options.verify:
        on_step("compute the PyTorch reference")
    reference = ask_source(source, options, name=name)
    network, network_steps = _prepare_network(reference, on_step)
    path = folder / MODEL_FILE
    written = _write(network, path, reference, on_step)
    if options.accelerator is not None:
        name_after_contents(path)
    on_step("verify the file")
    steps = (*network_steps, *written.steps, *reference.require_file(path))
    on_gpu = None
    if options.target == "gpu" and steps:
        on_gpu = compare_on_cuda(reference, path, steps[-1].tolerance, on_step=on_step)
    card = _describe(reference, written, path, steps=steps, gpu_parity=on_gpu, command=command)
    (folder / cards.FILE_NAME).write_text(cards.write_card(card))
    return card


def _require_writable(source: Exportable, options: ExportOptions, folder: Path, name: str) -> None:
    """Check, before long work, what the source and this machine rule out."""
    precision = options.combination.file_precision
    stored = source.size_bytes // (2 if precision in ("fp16", "bf16") else 1)
    require_within_limit(stored, f"{name} in {precision}")
    source.require_finite()
    require_computable(options.combination)
    if precision == "bf16":
        require_bf16()
    require_free_space(folder, 2 * source.size_bytes)


def _prepare_network(reference: Reference, on_step: Announce) -> tuple[Exportable, tuple[Parity, ...]]:
    """Return the network as it is written, folded and with its paths as grouped convolutions, and its checks."""
    source, steps = reference.source, list[Parity]()
    on_step("fold the survival probabilities")
    folded = source.folded()
    if folded is not source:
        steps += reference.require_network("fold", folded)
    grouped = folded.grouped()
    if grouped is not folded:
        on_step("write its paths as grouped convolutions")
        steps += reference.require_network(GROUPED_FORM, grouped)
    return grouped, tuple(steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """What came of writing the file."""

    counts: tuple[int, int]
    """Weight values, and those of 16 bits among them."""
    steps: tuple[Parity, ...] = ()
    """The check of the fp32 form, where low precision was made."""
    quantisation: Quantisation | None = None


def _write(network: Exportable, path: Path, reference: Reference, on_step: Announce) -> _Written:
    """Write the file; low precision only after its fp32 form was verified."""
    options = reference.options

    def write(at: Path, precision: Precision) -> tuple[int, int]:
        return onnx_reader.weight_counts(network.write(at, precision, options.input_type, options.target))

    if options.precision == "fp32":
        on_step("write ONNX")
        return _Written(counts=write(path, "fp32"))
    on_step("write ONNX in fp32")
    fp32_file = path.with_name("fp32.onnx")
    counts = write(fp32_file, "int8" if options.int8 else "fp32")
    on_step("verify the fp32 file")
    steps, quantisation = tuple(reference.require_structure(fp32_file)), None
    if options.combination.file_precision == "fp32":
        fp32_file.rename(path)
        return _Written(counts=counts, steps=steps)
    if options.int8 is None:
        on_step(f"write ONNX in {options.precision}")
        counts = write(path, options.precision)
    else:
        quantisation = _quantise(network, options.int8, fp32_file, path, reference, on_step)
    fp32_file.unlink()
    return _Written(counts=counts, steps=steps, quantisation=quantisation)


def _quantise(
    network: Exportable, int8: Int8Options, fp32_file: Path, path: Path, reference: Reference, on_step: Announce
) -> Quantisation:
    options = reference.options
    form = FileForm(
        signature=reference.signature,
        target=options.target,
        runtime=options.runtime,
        describe=lambda model: network.describe(model, "int8", options.input_type),
    )
    judge = reference.measure if options.verify else None
    try:
        return write_int8(fp32_file, path, int8, form, judge=judge, validation=_validation(reference), on_step=on_step)
    except ParityError as error:
        advice = "use more or better --calibrate images, another --calibrate-method, or --fp16"
        if network.description.weights.startswith("random"):
            advice = (
                "random weights lose more accuracy in int8 than trained ones: train the network or set --weights (or "
                "use --no-verify to measure speed only)"
            )
        raise ParityError(f"{reference.name}: {error}; {advice}; nothing was published") from error


def _validation(reference: Reference) -> Validation | None:
    """Return the images by which accuracy is kept; None where no classes are known or nothing is verified."""
    labelled, signature = reference.source.labelled, reference.signature
    if labelled is None or not reference.options.verify or signature.batch is not None:
        return None
    few = labelled.pick(_NUM_VALIDATION_IMAGES)
    return Validation(images=few.images, classes=few.classes, as_input=signature.as_input)


def _describe(
    reference: Reference,
    made: _Written,
    path: Path,
    *,
    steps: tuple[Parity, ...],
    gpu_parity: GpuParity | None,
    command: str,
) -> Card:
    """Return the card of the finished file."""
    source, options, signature = reference.source, reference.options, reference.signature
    graph = onnx.load(path)
    num_weights, num_half = made.counts
    precision = _precision_of(source, options)
    opened = reference.open(path)
    images = " and ".join(filter(None, ["" if options.int8 else "noise", source.real.origin]))
    return Card(
        name=reference.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        source=source.description.model_copy(update={"output_kind": reference.output_kind(path)}),
        precision=precision,
        target=options.target,
        accelerator=options.accelerator,
        runtime=describe_runtime(opened, options.combination.precision_hint),
        input=options.input_type,
        max_batch_size=signature.batch or options.max_batch_size,
        opset=onnx_reader.opset(graph),
        num_weights=num_weights,
        fp16_share=num_half / max(1, num_weights),
        quantisation=made.quantisation,
        quantised_before=source.quantised,
        operators_before=source.operators(),
        operators_after=onnx_reader.operators(graph),
        not_fused=source.not_fused(),
        verified=options.verify,
        own_bar=reference.tolerance if options.has_own_tolerance else None,
        verified_on=images if options.verify else "",
        steps=steps,
        gpu_parity=gpu_parity,
        canary=_canary(opened, signature, options, precision),
        int8_rows=_int8_rows(opened, signature, options) if precision == "int8" else None,
        files={MODEL_FILE: sha256_of(path)},
        tools=_tools(source),
    )


def _precision_of(source: Exportable, options: ExportOptions) -> Precision:
    """Return what the file computes in: a file that was int8 stays int8."""
    return "int8" if source.quantised is not None and source.quantised.computes_in_int8 else options.precision


def _canary(session: CpuModel, signature: Signature, options: ExportOptions, precision: Precision) -> Canary:
    num_images = signature.batch or min(_CANARY_IMAGES, options.max_batch_size)
    answer = session(canary_rows.canary_input(signature, num_images))
    if not np.isfinite(answer).all():
        raise ExportError(
            f"the {precision} file gives non-finite numbers in its self-test, so no server would accept it; export in "
            "a wider precision, or use other weights"
        )
    rows = tuple(tuple(float(f"{value:.7g}") for value in row) for row in np.asarray(answer, dtype=np.float64))
    return Canary(num_images=num_images, logits=rows, tolerance=_CANARY_TOLERANCE[precision])


def _int8_rows(session: CpuModel, signature: Signature, options: ExportOptions) -> Canary | None:
    return int8_processor.record_rows(
        signature, session, max_batch_size=options.max_batch_size, tolerance=_CANARY_TOLERANCE["int8"]
    )


def _tools(source: Exportable) -> dict[str, str]:
    arguments = source.description.arguments
    is_timms = arguments is not None and arguments.source.partition(":")[0] in (TIMM, HUB)
    packages = ("torch", "onnx", "onnxscript", "numpy", *(("timm",) if is_timms else ()))
    versions = {package: metadata.version(package) for package in packages}
    for package in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"resx": __version__, "python": platform.python_version(), **versions, "torch_build": torch.__version__}
