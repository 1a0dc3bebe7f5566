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
import torch

from resx._version import __version__
from resx.errors import UsageError
from resx.export import card as cards
from resx.export import onnx_file, parity
from resx.export.card import Canary, Card, InputType, Parity, Precision, Tolerance
from resx.export.fold import fold_survival
from resx.export.runtimes import OnnxRuntimeModel
from resx.export.source import LoadedSource
from resx.files import require_free_space, sha256_of

MODEL_FILE = "model.onnx"
_CANARY_IMAGES = 2
_CANARY_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How a network is to be written."""

    precision: Precision = "fp32"
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
        ParityError: folding or writing changed what the network computes by more than the tolerance.
        ExportError: the network cannot be folded or written.
        ResxError: the disk has no room for it.
    """
    spec = source.description.spec
    require_free_space(folder, 2 * sum(p.numel() * p.element_size() for p in source.model.parameters()))
    on_step("fold")
    folded = fold_survival(source.model)
    batches = parity.images_for(spec, real=source.real.images, max_batch_size=options.max_batch_size, seed=options.seed)
    steps: list[Parity] = []
    reference: list[parity.Logits] = []
    if options.verify:
        on_step("run PyTorch for reference")
        reference = [parity.torch_logits(source.model, spec, batch) for batch in batches]
        if spec.survival < 1:
            answers = [parity.torch_logits(folded, spec, batch) for batch in batches]
            steps.append(parity.require(parity.compare("fold", reference, answers, parity.FOLD), name=name))

    on_step("write ONNX")
    path = folder / MODEL_FILE
    proto = onnx_file.write_onnx(folded, spec, path, precision=options.precision, input_type=options.input_type)
    num_weights, num_half = onnx_file.weight_counts(proto)
    del proto

    on_step("verify the file")
    session = OnnxRuntimeModel(path)
    if options.verify:
        answers = [session(_as_input(batch, source, options.input_type)) for batch in batches]
        steps.append(parity.require(parity.compare("onnx", reference, answers, options.tolerance), name=name))
    card = Card(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        source=source.description,
        precision=options.precision,
        input=options.input_type,
        max_batch_size=options.max_batch_size,
        opset=onnx_file.OPSET,
        num_weights=num_weights,
        fp16_share=num_half / num_weights,
        verified=options.verify,
        verified_on=f"noise and {source.real.origin}" if options.verify else "",
        steps=tuple(steps),
        canary=_canary(session, source, options),
        files={MODEL_FILE: sha256_of(path)},
        tools=_tools(),
    )
    (folder / cards.FILE_NAME).write_text(cards.write_card(card))
    return card


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
