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
from resx.errors import ParityError, UsageError
from resx.export import card as cards
from resx.export import onnx_reading, parity
from resx.export.card import Canary, Card, InputType, Parity, Precision, Quantisation, Signature, Target, Tolerance
from resx.export.external_data import require_within_limit
from resx.export.int8_file import FileForm, Int8Options, write_int8
from resx.export.resnext_form import STEP as GROUPED_FORM
from resx.export.runtimes import OnnxRuntimeModel, require_bf16
from resx.export.source import LoadedSource
from resx.export.third_party import LoadedFile
from resx.files import require_free_space, sha256_of

Exportable: TypeAlias = LoadedSource | LoadedFile
"""What an export begins with: both can be checked, asked, folded and written."""

MODEL_FILE = "model.onnx"
_CANARY_IMAGES = 2
_CANARY_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How a network is to be written."""

    precision: Precision = "fp32"
    target: Target = "cpu"
    """The runtime that the file's form is for; both compute it."""
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
        if not 1 <= self.max_batch_size <= 1024:
            raise UsageError(f"max_batch_size={self.max_batch_size}: give 1 to 1024 images")
        if (self.precision == "int8") != (self.int8 is not None):
            raise UsageError(f"precision {self.precision}: calibration belongs to int8, and int8 needs it")
        for name, bound in (("atol", self.atol), ("rtol", self.rtol)):
            if bound is not None and not bound > 0:
                raise UsageError(f"{name}={bound}: give a bound above 0")

    @property
    def tolerance(self) -> Tolerance:
        """The bar for the written file."""
        if self.atol is None and self.rtol is None:
            return parity.TOLERANCES[self.precision]
        return Tolerance(max_abs=self.atol, max_rel=self.rtol)


def export_version(
    source: Exportable, options: ExportOptions, folder: Path, *, name: str, command: str,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Card:  # fmt: skip
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
    on_step("fold")
    folded = source.folded()
    is_int8 = options.precision == "int8"
    batches = parity.images_for(
        signature, real=source.real.images, max_batch_size=options.max_batch_size, seed=options.seed,
        with_noise=not is_int8,
    )  # fmt: skip
    steps: list[Parity] = []
    reference: list[parity.Logits] = []
    if options.verify:
        on_step("run the source for reference")
        reference = [source.logits(batch) for batch in batches]
        if folded is not source:
            answers = [folded.logits(batch) for batch in batches]
            steps.append(parity.require(parity.compare("fold", reference, answers, parity.FOLD), name=name))

    def measured(path: Path) -> Parity:
        session = OnnxRuntimeModel(path)
        answers = [session(signature.as_input(batch)) for batch in batches]
        classes = source.real.classes if is_int8 else None
        return parity.compare("onnx", reference, answers, options.tolerance, classes=classes)

    grouped = folded.grouped()
    if grouped is not folded:
        on_step("write its paths as grouped convolutions")
        folded = grouped
        if options.verify:
            answers = [folded.logits(batch) for batch in batches]
            steps.append(parity.require(parity.compare(GROUPED_FORM, reference, answers, parity.FOLD), name=name))

    def check_fp32(path: Path) -> None:
        """int8's bar is too wide to show a small fault of what it is made of, and its images may all be grey."""
        noise = parity.images_for(
            signature, real=source.real.images[:0], max_batch_size=options.max_batch_size, seed=options.seed
        )
        session = OnnxRuntimeModel(path)
        expected = [*(source.logits(batch) for batch in noise), *reference]
        answers = [session(signature.as_input(batch)) for batch in (*noise, *batches)]
        found = parity.compare("fp32 file", expected, answers, parity.TOLERANCES["fp32"])
        steps.append(parity.require(found, name=name))

    path = folder / MODEL_FILE
    num_weights, num_half, quantisation = _write(folded, options, path, measured, check_fp32, name, on_step)
    on_step("verify the file")
    if options.verify:
        steps.append(parity.require(measured(path), name=name))
    written = onnx.load(path)
    card = Card(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        source=source.description,
        precision=options.precision,
        target=options.target,
        input=options.input_type,
        max_batch_size=signature.batch or options.max_batch_size,
        opset=onnx_reading.opset(written),
        num_weights=num_weights,
        fp16_share=num_half / max(1, num_weights),
        quantisation=quantisation,
        operators_before=source.operators(),
        operators_after=onnx_reading.operators(written),
        verified=options.verify,
        own_bar=None if options.atol is None and options.rtol is None else options.tolerance,
        verified_on=" and ".join(filter(None, ["" if is_int8 else "noise", source.real.origin]))
        if options.verify
        else "",
        steps=tuple(steps),
        canary=_canary(OnnxRuntimeModel(path), signature, options),
        files={MODEL_FILE: sha256_of(path)},
        tools=_tools(),
    )
    (folder / cards.FILE_NAME).write_text(cards.write_card(card))
    return card


def _write(
    source: Exportable, options: ExportOptions, path: Path,
    measured: Callable[[Path], Parity], check_fp32: Callable[[Path], None], name: str, on_step: Callable[[str], None],
) -> tuple[int, int, Quantisation | None]:  # fmt: skip
    """Write the file; return the network's number of weight values, how many have 16 bits, and how int8 came to be."""
    fp32_file = path.with_name("fp32.onnx") if options.int8 else path
    on_step("write ONNX")
    proto = source.write(fp32_file, options.precision, options.input_type, options.target)
    num_weights, num_half = onnx_reading.weight_counts(proto)
    del proto
    if options.int8 is None:
        return num_weights, num_half, None
    form = FileForm(
        signature=source.description.signature_with(options.input_type), target=options.target,
        describe=lambda model: source.describe(model, "int8", options.input_type),
    )  # fmt: skip
    judge = measured if options.verify else None
    if options.verify:
        on_step("verify the fp32 file that int8 is made of")
        check_fp32(fp32_file)
    try:
        quantisation = write_int8(fp32_file, path, options.int8, form, judge=judge, on_step=on_step)
    except ParityError as error:
        advice = "give more and better --calibrate images, another --calibrate-method, or take --fp16"
        if source.description.weights.startswith("random"):
            advice = (
                "random weights have no margins between classes, so that rounding flips near ties: train it or give "
                "--weights (or --no-verify, for a trial of speed)"
            )
        raise ParityError(f"{name}: {error}; {advice}; nothing was published") from error
    fp32_file.unlink()
    return num_weights, num_half, quantisation


def _canary(session: OnnxRuntimeModel, signature: Signature, options: ExportOptions) -> Canary:
    num_images = signature.batch or min(_CANARY_IMAGES, options.max_batch_size)
    answer = session(cards.canary_input(signature, num_images))
    rows = tuple(tuple(float(f"{value:.7g}") for value in row) for row in np.asarray(answer, dtype=np.float64))
    return Canary(num_images=num_images, logits=rows, tolerance=_CANARY_TOLERANCE[options.precision])


def _tools() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxscript", "numpy")
    versions = {package: metadata.version(package) for package in packages}
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"resx": __version__, "python": platform.python_version(), **versions, "torch_build": torch.__version__}
