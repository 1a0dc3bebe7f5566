"""Compare what two forms of a model compute, against a tolerance that was set before.

The reference is eager PyTorch in fp32, the source model in evaluation mode; or the given file, where an .onnx file
was exported. What is compared is the file on disk in a fresh session. Differences are relative to the logits' scale,
so that big logits do not fail a good model and small ones do not pass a bad one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from resx.errors import ParityError
from resx.export.card import Parity, Precision, Signature, Tolerance
from resx.training import evaluation
from resx.zoo.spec import ModelSpec

Images: TypeAlias = npt.NDArray[np.uint8]
Logits: TypeAlias = npt.NDArray[Any]

FOLD = Tolerance(max_abs=1e-4, max_rel=1e-3)
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(max_abs=1e-4, max_rel=1e-3),
    "fp16": Tolerance(mean_rel=1e-2, top1_agreement=0.99),
    # Three bits of mantissa less than fp16.
    "bf16": Tolerance(mean_rel=8e-2, top1_agreement=0.98),
    "int8": Tolerance(cosine=0.99, top1_agreement=0.98, accuracy_drop=0.01),
}


def images_for(
    signature: Signature, *, real: Images, max_batch_size: int, seed: int, with_noise: bool = True
) -> list[Images]:
    """Return batches UINT8 [N, ...]: sizes 1, 2 and `max_batch_size` of noise, and the same of `real`.

    All of `real` is used, in its order: what remains after the three sizes goes into further batches of the
    largest. A file of a fixed batch gets whole batches of that size only. int8 is compared without noise: its
    activations leave the ranges that real images calibrated.
    """
    random = np.random.default_rng(seed)
    sizes = sorted({1, 2, max_batch_size}) if signature.batch is None else [signature.batch]
    noise = [random.integers(0, 256, size=(size, *signature.input_dims), dtype=np.uint8) for size in sizes]
    ends = [*np.cumsum(sizes), *range(sum(sizes) + sizes[-1], len(real), sizes[-1])]
    batches = [batch for batch in np.split(real, ends) if len(batch)]
    if signature.batch is not None:
        batches = [batch for batch in batches if len(batch) == signature.batch]
    return (noise if with_noise else []) + batches


def torch_logits(model: nn.Module, spec: ModelSpec, images_NCHW: Images) -> Logits:
    """Return eager PyTorch's logits [N, classes] in fp32; the model is left in evaluation mode."""
    return evaluation.logits(model, spec, images_NCHW).numpy()


def compare(
    step: str, reference: Sequence[Logits], candidate: Sequence[Logits], tolerance: Tolerance,
    *, classes: npt.NDArray[np.int64] | None = None,
) -> Parity:  # fmt: skip
    """Measure the candidate's logits against the reference's, batch by batch, and give the verdict.

    `classes` [N] are the true ones, of all images in their order; None where they are not known. A candidate
    that is not finite, or of another shape, never passes.
    """
    batch_sizes = tuple(sorted({len(batch) for batch in reference}))
    if [batch.shape for batch in candidate] != [batch.shape for batch in reference]:
        shapes = f"{[b.shape for b in candidate]} for {[b.shape for b in reference]}"
        raise ParityError(f"{step}: answers of shape {shapes}; nothing was published")
    expected = np.concatenate([batch.astype(np.float64) for batch in reference])
    actual = np.concatenate([batch.astype(np.float64) for batch in candidate])
    with np.errstate(invalid="ignore"):  # inf - inf: found below
        difference = np.abs(actual - expected)
    scale = float(np.abs(expected).max())
    agreement = float((actual.argmax(1) == expected.argmax(1)).mean())
    finite = bool(np.isfinite(actual).all() and np.isfinite(expected).all())
    bounds = [
        (float(difference.max()), tolerance.max_abs, max(1.0, scale)),
        (float(difference.max()), tolerance.max_rel, scale),
        (float(difference.mean()), tolerance.mean_rel, scale),
    ]
    within = all(bound is None or measured <= bound * unit for measured, bound, unit in bounds)
    cosine = _mean_cosine(expected, actual) if finite else 0.0
    reference_accuracy, accuracy = (
        (None, None) if classes is None else [float((rows.argmax(1) == classes).mean()) for rows in (expected, actual)]
    )
    agrees = tolerance.top1_agreement is None or agreement >= tolerance.top1_agreement
    points = tolerance.cosine is None or cosine >= tolerance.cosine
    drop = (reference_accuracy or 0.0) - (accuracy or 0.0)
    holds = tolerance.accuracy_drop is None or drop <= tolerance.accuracy_drop + 1e-9
    return Parity(
        step=step, num_images=len(expected), batch_sizes=batch_sizes, scale=scale,
        max_abs=float(difference.max()) if finite else float("inf"),
        mean_abs=float(difference.mean()) if finite else float("inf"),
        p99_abs=float(np.quantile(difference, 0.99)) if finite else float("inf"),
        top1_agreement=agreement, cosine=cosine, accuracy=accuracy, reference_accuracy=reference_accuracy,
        tolerance=tolerance, passed=finite and within and agrees and points and holds,
    )  # fmt: skip


def require(parity: Parity, *, name: str) -> Parity:
    """Return the comparison if it passed.

    Raises:
        ParityError: it did not; the message holds the numbers and the bounds.
    """
    if parity.passed:
        return parity
    bounds = parity.tolerance.model_dump(exclude_none=True)
    cosine = "" if parity.cosine is None else f", cosine {parity.cosine:.5f}"
    if parity.accuracy is not None:
        cosine += f", accuracy {parity.accuracy:.1%} for {parity.reference_accuracy:.1%}"
    smallest = passing_rtol(parity)
    remedy = f"it would pass with --rtol {smallest:g}" if math.isfinite(smallest) else "no --rtol would pass it"
    raise ParityError(
        f"{name}: {parity.step} differs from its source: max {parity.max_abs:.3g}, mean {parity.mean_abs:.3g} at "
        f"logits up to {parity.scale:.3g}, top-1 agreement {parity.top1_agreement:.1%}{cosine}; allowed "
        f"{bounds}; nothing was published ({remedy}; --atol, --rtol or --no-verify change the "
        "bar, and the card says so)"
    )


def passing_rtol(parity: Parity) -> float:
    """Return the smallest --rtol, of three digits, with which the comparison passes; inf if none does."""
    return smallest_bound(parity.max_abs, parity.scale) if parity.scale or not parity.max_abs else math.inf


def smallest_bound(max_abs: float, scale: float) -> float:
    """Return `max_abs` over `scale` (over 1 where that is 0), rounded up to three digits."""
    relative = max_abs / (scale or 1.0)
    if not math.isfinite(relative):
        return math.inf
    rounded = float(f"{relative:.2e}")
    if rounded < relative:
        rounded = float(f"{rounded + 10.0 ** (math.floor(math.log10(rounded)) - 2):.2e}")
    return rounded


def _mean_cosine(expected: Logits, actual: Logits) -> float:
    """Return the cosine between the two logits of an image, mean over the images; 0 where one is all zeros."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return float(((expected * actual).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)).mean())
