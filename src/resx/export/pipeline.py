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

import numpy as np
import onnx
import torch

from resx._version import __version__
from resx.card import canary_rows
from resx.card import card as cards
from resx.card.canary_rows import Canary
from resx.card.card import Accelerator, Card
from resx.card.kinds import InputType, Precision, Target
from resx.card.parity_result import Parity, Tolerance
from resx.card.precision import Quantisation
from resx.card.signature import Signature
from resx.errors import ExportError, ParityError, UsageError
from resx.export.checks import parity
from resx.export.gpu_parity import compare_on_cuda
from resx.export.graph.resnext_form import STEP as GROUPED_FORM
from resx.export.graph.tensorrt_form import name_after_contents
from resx.export.int8.int8_file import FileForm, Int8Options, write_int8
from resx.export.reference import Checks, Exportable, prepare_checks
from resx.files.disk_space import require_free_space
from resx.files.staging import sha256_of
from resx.runtimes import onnx_reader
from resx.runtimes.external_data import require_within_limit
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel, require_bf16

MODEL_FILE = "model.onnx"
_CANARY_IMAGES = 2
_CANARY_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How a network is to be written."""

    precision: Precision = "fp32"
    target: Target = "cpu"
    """The runtime that the file's form is for; both compute it."""
    accelerator: Accelerator | None = None
    """What is to compute the file in place of the runtime's own kernels."""
    int8: Int8Options | None = None
    """For the precision int8, which needs it; None for the others."""
    input_type: InputType = "uint8"
    max_batch_size: int = 8
    seed: int = 0
    """Of the noise that parity is measured on."""
    verify: bool = True
    atol: float | None = None
    rtol: float | None = None
    """Bounds instead of the precision's own: on the largest difference, absolute and relative to the scale."""

    def __post_init__(self) -> None:
        if self.accelerator is not None and self.target == "cpu":
            raise UsageError("target cpu: TensorRT computes on a GPU, and refuses the CPU's int8; give target gpu")
        if not 1 <= self.max_batch_size <= 1024:
            raise UsageError(f"max_batch_size={self.max_batch_size}: give 1 to 1024 images")
        if (self.precision == "int8") != (self.int8 is not None):
            raise UsageError(f"precision {self.precision}: calibration belongs to int8, and int8 needs it")
        for name, bound in (("atol", self.atol), ("rtol", self.rtol)):
            if bound is not None and not bound > 0:
                raise UsageError(f"{name}={bound}: give a bound above 0")

    @property
    def has_own_tolerance(self) -> bool:
        """Whether the user set the tolerance."""
        return self.atol is not None or self.rtol is not None

    def tolerance_for(self, source: Exportable) -> Tolerance:
        """Return the tolerance for the file that is made of the source."""
        if not self.has_own_tolerance:
            return parity.tolerance_for(self.precision, source.num_layers)
        return Tolerance(max_abs=self.atol, max_rel=self.rtol)


def export_version(
    source: Exportable,
    options: ExportOptions,
    folder: Path,
    *,
    name: str,
    command: str,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Card:
    """Write `model.onnx` and `card.json` into `folder` and return the card.

    Raises:
        UsageError: weights are not finite or pass 2 GB, or a name to keep in fp32 matches nothing.
        ParityError: folding or writing changed what the network computes by more than the tolerance.
        ExportError: the network cannot be folded or written.
        MissingCapability: onnxruntime here cannot run bf16, so that nothing could be verified.
        ResxError: the disk has no room for it.
    """
    stored = source.size_bytes // (2 if options.precision in ("fp16", "bf16") else 1)
    require_within_limit(stored, f"{name} in {options.precision}")
    source.require_finite()
    signature = source.description.signature_with(options.input_type)
    if options.precision == "bf16":
        require_bf16()
    require_free_space(folder, 2 * source.size_bytes)
    if options.verify:
        on_step("run the source for reference")
    checks = prepare_checks(
        source,
        signature,
        name=name,
        precision=options.precision,
        tolerance=options.tolerance_for(source),
        is_own_tolerance=options.has_own_tolerance,
        max_batch_size=options.max_batch_size,
        seed=options.seed,
        verify=options.verify,
    )
    on_step("fold")
    folded = source.folded()
    steps = [] if folded is source else checks.require_network("fold", folded)
    grouped = folded.grouped()
    if grouped is not folded:
        on_step("write its paths as grouped convolutions")
        steps += checks.require_network(GROUPED_FORM, grouped)
    path = folder / MODEL_FILE
    made = _write(grouped, options, path, checks, on_step)
    if options.accelerator is not None:
        name_after_contents(path)
    on_step("verify the file")
    steps += [*made.steps, *checks.require_file(path)]
    gpu_parity = None
    if options.target == "gpu" and steps:
        gpu_parity = compare_on_cuda(checks, path, steps[-1].tolerance, on_step=on_step)
    written = onnx.load(path)
    precision = _precision_of(source, options)
    card = Card(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        source=source.description.model_copy(update={"output_kind": checks.output_kind(path)}),
        precision=precision,
        target=options.target,
        accelerator=options.accelerator,
        input=options.input_type,
        max_batch_size=signature.batch or options.max_batch_size,
        opset=onnx_reader.opset(written),
        num_weights=made.num_weights,
        fp16_share=made.num_half / max(1, made.num_weights),
        quantisation=made.quantisation,
        quantised_before=source.quantised,
        operators_before=source.operators(),
        operators_after=onnx_reader.operators(written),
        not_fused=source.not_fused(),
        verified=options.verify,
        own_bar=checks.tolerance if options.has_own_tolerance else None,
        verified_on=" and ".join(filter(None, ["" if options.int8 else "noise", source.real.origin]))
        if options.verify
        else "",
        steps=tuple(steps),
        gpu_parity=gpu_parity,
        canary=_canary(OnnxRuntimeModel(path), signature, options, precision),
        files={MODEL_FILE: sha256_of(path)},
        tools=_tools(),
    )
    (folder / cards.FILE_NAME).write_text(cards.write_card(card))
    return card


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """What came of writing the file."""

    num_weights: int
    num_half: int = 0
    """Weight values of 16 bits."""
    steps: tuple[Parity, ...] = ()
    """The check of the fp32 form, where low precision was made."""
    quantisation: Quantisation | None = None


def _write(
    source: Exportable, options: ExportOptions, path: Path, checks: Checks, on_step: Callable[[str], None]
) -> _Written:
    """Write the file; low precision only after its fp32 form was verified."""
    if options.precision == "fp32":
        on_step("write ONNX")
        num_weights, num_half = onnx_reader.weight_counts(
            source.write(path, "fp32", options.input_type, options.target)
        )
        return _Written(num_weights=num_weights, num_half=num_half)
    on_step("write ONNX in fp32")
    fp32_file = path.with_name("fp32.onnx")
    form = source.write(fp32_file, "int8" if options.int8 else "fp32", options.input_type, options.target)
    num_weights, num_half = onnx_reader.weight_counts(form)
    on_step("verify the fp32 form")
    steps, quantisation = tuple(checks.require_structure(fp32_file)), None
    if options.int8 is None:
        on_step(f"write ONNX in {options.precision}")
        written = source.write(path, options.precision, options.input_type, options.target)
        num_weights, num_half = onnx_reader.weight_counts(written)
    else:
        quantisation = _quantise(source, options, options.int8, fp32_file, path, checks, on_step)
    fp32_file.unlink()
    return _Written(num_weights=num_weights, num_half=num_half, steps=steps, quantisation=quantisation)


def _quantise(
    source: Exportable,
    options: ExportOptions,
    int8: Int8Options,
    fp32_file: Path,
    path: Path,
    checks: Checks,
    on_step: Callable[[str], None],
) -> Quantisation:
    form = FileForm(
        signature=checks.signature,
        target=options.target,
        describe=lambda model: source.describe(model, "int8", options.input_type),
    )
    judge = checks.measure if options.verify else None
    try:
        return write_int8(fp32_file, path, int8, form, judge=judge, on_step=on_step)
    except ParityError as error:
        advice = "give more and better --calibrate images, another --calibrate-method, or take --fp16"
        if source.description.weights.startswith("random"):
            advice = (
                "random weights lose more to 8 bits than trained ones: train the network or give --weights (or "
                "--no-verify, to try its speed)"
            )
        raise ParityError(f"{checks.name}: {error}; {advice}; nothing was published") from error


def _precision_of(source: Exportable, options: ExportOptions) -> Precision:
    """Return what the file computes in: a file that was int8 stays int8."""
    return "int8" if source.quantised is not None and source.quantised.computes_in_int8 else options.precision


def _canary(session: OnnxRuntimeModel, signature: Signature, options: ExportOptions, precision: Precision) -> Canary:
    num_images = signature.batch or min(_CANARY_IMAGES, options.max_batch_size)
    answer = session(canary_rows.canary_input(signature, num_images))
    if not np.isfinite(answer).all():
        raise ExportError(
            f"the {precision} file answers its self-test with numbers that are not finite; no server would take it; "
            "export in a wider precision, or other weights"
        )
    rows = tuple(tuple(float(f"{value:.7g}") for value in row) for row in np.asarray(answer, dtype=np.float64))
    return Canary(num_images=num_images, logits=rows, tolerance=_CANARY_TOLERANCE[precision])


def _tools() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxscript", "numpy")
    versions = {package: metadata.version(package) for package in packages}
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"resx": __version__, "python": platform.python_version(), **versions, "torch_build": torch.__version__}
