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
from torch import nn

from resx._version import __version__
from resx.errors import ParityError, UsageError
from resx.export import card as cards
from resx.export import fusion, onnx_file, parity
from resx.export.card import Canary, Card, InputType, Parity, Precision, Quantisation, Target, Tolerance
from resx.export.fold import fold_survival
from resx.export.int8_file import FileForm, Int8Options, write_int8
from resx.export.resnext_form import STEP as GROUPED_FORM
from resx.export.resnext_form import grouped_form
from resx.export.runtimes import OnnxRuntimeModel, require_bf16
from resx.export.source import LoadedSource
from resx.files import require_free_space, sha256_of

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
    source: LoadedSource, options: ExportOptions, folder: Path, *, name: str, command: str,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Card:  # fmt: skip
    """Write `model.onnx` and `card.json` into `folder` and return the card.

    Raises:
        UsageError: weights are not finite, or a name to keep in fp32 matches nothing.
        ParityError: folding or writing changed what the network computes by more than the tolerance.
        ExportError: the network cannot be folded or written.
        MissingCapability: onnxruntime here cannot run bf16, so that nothing could be verified.
        ResxError: the disk has no room for it.
    """
    spec = source.description.spec
    _require_finite(source)
    if options.precision == "bf16":
        require_bf16()
    require_free_space(folder, 2 * sum(p.numel() * p.element_size() for p in source.model.parameters()))
    on_step("fold")
    folded = fold_survival(source.model)
    is_int8 = options.precision == "int8"
    batches = parity.images_for(
        spec, real=source.real.images, max_batch_size=options.max_batch_size, seed=options.seed, with_noise=not is_int8
    )
    steps: list[Parity] = []
    reference: list[parity.Logits] = []
    if options.verify:
        on_step("run PyTorch for reference")
        reference = [parity.torch_logits(source.model, spec, batch) for batch in batches]
        if spec.survival < 1:
            answers = [parity.torch_logits(folded, spec, batch) for batch in batches]
            steps.append(parity.require(parity.compare("fold", reference, answers, parity.FOLD), name=name))

    def measured(path: Path) -> Parity:
        session = OnnxRuntimeModel(path)
        answers = [session(_as_input(batch, source, options.input_type)) for batch in batches]
        classes = source.real.classes if is_int8 else None
        return parity.compare("onnx", reference, answers, options.tolerance, classes=classes)

    grouped = grouped_form(folded)
    if grouped is not None:
        on_step("write its paths as grouped convolutions")
        folded = grouped
        if options.verify:
            answers = [parity.torch_logits(folded, spec, batch) for batch in batches]
            steps.append(parity.require(parity.compare(GROUPED_FORM, reference, answers, parity.FOLD), name=name))

    def check_fp32(path: Path) -> None:
        """int8's bar is too wide to show a small fault of what it is made of, and its images may all be grey."""
        noise = parity.images_for(
            spec, real=source.real.images[:0], max_batch_size=options.max_batch_size, seed=options.seed
        )
        session = OnnxRuntimeModel(path)
        expected = [*(parity.torch_logits(source.model, spec, batch) for batch in noise), *reference]
        answers = [session(_as_input(batch, source, options.input_type)) for batch in (*noise, *batches)]
        found = parity.compare("fp32 file", expected, answers, parity.TOLERANCES["fp32"])
        steps.append(parity.require(found, name=name))

    path = folder / MODEL_FILE
    num_weights, num_half, quantisation = _write(
        source, folded, options, path, measured, check_fp32, name, on_step
    )  # fmt: skip
    on_step("verify the file")
    if options.verify:
        steps.append(parity.require(measured(path), name=name))
    card = Card(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        source=source.description,
        precision=options.precision,
        target=options.target,
        input=options.input_type,
        max_batch_size=options.max_batch_size,
        opset=onnx_file.OPSETS[options.precision],
        num_weights=num_weights,
        fp16_share=num_half / num_weights,
        quantisation=quantisation,
        operators_before=fusion.operators(source.model),
        operators_after=onnx_file.operators(onnx.load(path)),
        verified=options.verify,
        verified_on=f"{'' if is_int8 else 'noise and '}{source.real.origin}" if options.verify else "",
        steps=tuple(steps),
        canary=_canary(OnnxRuntimeModel(path), source, options),
        files={MODEL_FILE: sha256_of(path)},
        tools=_tools(),
    )
    (folder / cards.FILE_NAME).write_text(cards.write_card(card))
    return card


def _write(
    source: LoadedSource, folded: nn.Module, options: ExportOptions, path: Path,
    measured: Callable[[Path], Parity], check_fp32: Callable[[Path], None], name: str, on_step: Callable[[str], None],
) -> tuple[int, int, Quantisation | None]:  # fmt: skip
    """Write the file; return the network's number of weight values, how many have 16 bits, and how int8 came to be."""
    spec = source.description.spec
    fp32_file = path.with_name("fp32.onnx") if options.int8 else path
    on_step("write ONNX")
    proto = onnx_file.write_onnx(
        folded, spec, fp32_file, precision=options.precision, input_type=options.input_type, target=options.target
    )
    num_weights, num_half = onnx_file.weight_counts(proto)
    del proto
    if options.int8 is None:
        return num_weights, num_half, None
    form = FileForm(spec=spec, target=options.target, input_type=options.input_type)
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


def _require_finite(source: LoadedSource) -> None:
    bad = [key for key, tensor in source.model.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise UsageError(
            f"{source.description.weights}: {len(bad)} weights are not finite ({bad[0]}); "
            "a training that diverged leaves them: train with a lower rate, or give other weights"
        )


def _as_input(batch: parity.Images, source: LoadedSource, input_type: InputType) -> parity.Logits:
    spec = source.description.spec
    return batch if input_type == "uint8" else cards.normalised_pixels(batch, spec.mean, spec.std)


def _canary(session: OnnxRuntimeModel, source: LoadedSource, options: ExportOptions) -> Canary:
    num_images = min(_CANARY_IMAGES, options.max_batch_size)
    answer = session(cards.canary_images(source.description.spec, options.input_type, num_images))
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
