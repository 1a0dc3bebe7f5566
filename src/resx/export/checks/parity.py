"""Compare what two forms of a model compute, against a tolerance that was set before: one rule for every precision.

The reference is eager PyTorch in fp32, the source model in evaluation mode; or the file as it came, where an .onnx
file is exported. What is compared is the file on disk in a fresh session. S is the logits' scale, the largest
|reference|, so that big logits do not fail a good model and small ones do not pass a bad one.

    1. structure   The fp32 graph is held to max <= 1e-4 S, whatever precision is made of it. A wrong epsilon, a lost
                   layer or a swapped channel shows here, where rounding cannot hide it.
    2. rounding    What low precision adds has a bound of its own (TOLERANCES). fp16 rounds to 2^-11, and the errors of
                   L layers add up like sqrt(L): beyond 200 layers the bounds grow with it. A network without shortcuts
                   may amplify them more (plain56 with random weights: 2.6e-2 S, with no fault in it). Where the
                   bounds are missed, its weights and layers are rounded in PyTorch, and twice what that does, but
                   at most five times the bounds, is allowed.
    3. classes     Every decided image keeps its most likely class. If |z' - z| <= tau S, a flip needs a margin (first
                   logit less second) of at most 2 tau S: an image with more is decided, the others are near ties,
                   which rounding may flip, and which are reported and not judged. The largest error bounds tau for
                   fp16 and bf16. int8 bounds the angle: cosine c lets an error of sqrt(2 (1 - c)) |z| pass, spread
                   over the logits. Single ones exceed that, so int8 fails only where flips are too many for chance:
                   P(X >= flips | decided images, 1 - 0.98) < 1 %.
    4. accuracy    Where classes are known, the images right before and wrong after (b) are set against those wrong
                   before and right after (c). It fails where the drop is surely above one point: McNemar's exact
                   conditional interval, one-sided at 95 %, of (b - c) / n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats
from torch import nn

from resx.card.kinds import Precision
from resx.card.parity_result import Parity, Tolerance, accuracy_text, flips_text
from resx.card.signature import Signature
from resx.errors import ParityError
from resx.training import evaluation
from resx.zoo.spec import ModelSpec

Images: TypeAlias = npt.NDArray[np.uint8]
Logits: TypeAlias = npt.NDArray[Any]

STRUCTURE = Tolerance(max_rel=1e-4)
"""Of folding, of any rewriting in fp32, and of the fp32 file."""
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": STRUCTURE,
    "fp16": Tolerance(max_rel=1e-2, mean_rel=2e-3, accuracy_drop=0.01),
    # Three bits of mantissa less than fp16.
    "bf16": Tolerance(max_rel=4e-2, mean_rel=1e-2, accuracy_drop=0.01),
    "int8": Tolerance(cosine=0.99, top1_agreement=0.98, accuracy_drop=0.01),
}
_LAYERS_WITHIN_BOUNDS = 200
_MOST_WIDENED = 5.0
"""What loses more to rounding is not worth publishing, whoever is to blame."""
_LEAST_CHANCE = 0.01
_CONFIDENCE = 0.95


def tolerance_for(precision: Precision, num_layers: int) -> Tolerance:
    """Return the tolerance for a file of a network with so many layers: rounding adds up with depth."""
    found = TOLERANCES[precision]
    growth = math.sqrt(max(1.0, num_layers / _LAYERS_WITHIN_BOUNDS))
    if precision not in ("fp16", "bf16") or growth == 1:
        return found
    assert found.max_rel is not None
    assert found.mean_rel is not None
    return found.model_copy(update={"max_rel": found.max_rel * growth, "mean_rel": found.mean_rel * growth})


def widen(tolerance: Tolerance, rounding: Parity) -> Tolerance:
    """Return the tolerance for a network that amplifies rounding: twice what rounding alone does, within limits.

    Args:
        tolerance: of rounding, as `tolerance_for` gives it.
        rounding: the network with its weights and layers rounded (`resx.export.checks.rounding`) against the network.
    """
    assert tolerance.max_rel is not None
    assert tolerance.mean_rel is not None
    scale = rounding.scale or 1.0

    def widened(bound: float, measured: float) -> float:
        return min(max(bound, 2 * measured / scale), _MOST_WIDENED * bound)

    return tolerance.model_copy(
        update={
            "max_rel": widened(tolerance.max_rel, rounding.max_abs),
            "mean_rel": widened(tolerance.mean_rel, rounding.mean_abs),
        }
    )


def images_for(
    signature: Signature, *, real: Images, max_batch_size: int, seed: int, with_noise: bool = True
) -> list[Images]:
    """Return batches UINT8 [N, ...]: sizes 1, 2 and `max_batch_size` of noise, and the same of `real`.

    All of `real` is used, in its order: what remains after the three sizes goes into further batches of the
    largest. A file of a fixed batch gets whole batches of that size only, one of a largest batch of 1 single images.
    int8 is compared without noise: its activations leave the ranges that real images calibrated.
    """
    random = np.random.default_rng(seed)
    sizes = sorted({1, min(2, max_batch_size), max_batch_size}) if signature.batch is None else [signature.batch]
    noise = [random.integers(0, 256, size=(size, *signature.pixel_dims), dtype=np.uint8) for size in sizes]
    ends = [*np.cumsum(sizes), *range(sum(sizes) + sizes[-1], len(real), sizes[-1])]
    batches = [batch for batch in np.split(real, ends) if len(batch)]
    if signature.batch is not None:
        batches = [batch for batch in batches if len(batch) == signature.batch]
    return (noise if with_noise else []) + batches


def torch_logits(model: nn.Module, spec: ModelSpec, images_NCHW: Images) -> Logits:
    """Return eager PyTorch's logits [N, classes] in fp32; the model is left in evaluation mode."""
    return evaluation.logits(model, spec, images_NCHW).numpy()


def compare(
    step: str,
    reference: Sequence[Logits],
    candidate: Sequence[Logits],
    tolerance: Tolerance,
    *,
    classes: npt.NDArray[np.int64] | None = None,
) -> Parity:
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
    finite = bool(np.isfinite(actual).all() and np.isfinite(expected).all())
    bounds = [
        (float(difference.max()), tolerance.max_abs, max(1.0, scale)),
        (float(difference.max()), tolerance.max_rel, scale),
        (float(difference.mean()), tolerance.mean_rel, scale),
    ]
    within = all(bound is None or measured <= bound * unit for measured, bound, unit in bounds)
    cosine = _mean_cosine(expected, actual) if finite else 0.0
    points = tolerance.cosine is None or cosine >= tolerance.cosine
    flips = actual.argmax(1) != expected.argmax(1)
    certainty = _certainty(expected, tolerance, scale)
    decided = certainty > 1
    num_decided, num_decided_flips = int(decided.sum()), int((flips & decided).sum())
    near_ties = certainty[flips & ~decided]
    found = Parity(
        step=step,
        num_images=len(expected),
        batch_sizes=batch_sizes,
        scale=scale,
        max_abs=float(difference.max()) if finite else float("inf"),
        mean_abs=float(difference.mean()) if finite else float("inf"),
        p99_abs=float(np.quantile(difference, 0.99)) if finite else float("inf"),
        top1_agreement=float(1 - flips.mean()),
        num_flips=int(flips.sum()),
        num_decided=num_decided,
        num_decided_flips=num_decided_flips,
        near_tie_margin=float(near_ties.max()) if len(near_ties) else None,
        cosine=cosine,
        tolerance=tolerance,
        passed=finite and within and points and _keeps_classes(num_decided_flips, num_decided, tolerance),
    )
    return (
        found if classes is None else with_accuracy(found, expected.argmax(1) == classes, actual.argmax(1) == classes)
    )


def with_accuracy(parity: Parity, right_before: npt.NDArray[np.bool_], right_after: npt.NDArray[np.bool_]) -> Parity:
    """Return the comparison with what became of accuracy, image by image [N], and judged by it too."""
    bound, low = parity.tolerance.accuracy_drop, drop_low(right_before, right_after)
    return parity.model_copy(
        update={
            "num_labelled": len(right_before),
            "reference_accuracy": float(right_before.mean()),
            "accuracy": float(right_after.mean()),
            "accuracy_drop_low": low,
            "passed": parity.passed and (bound is None or low <= bound),
        }
    )


def drop_low(right_before: npt.NDArray[np.bool_], right_after: npt.NDArray[np.bool_]) -> float:
    """Return the lower end of the one-sided 95 % interval of the fall in accuracy, as a share of the images.

    Only images that one form gets right and the other wrong say anything: of those, the share that was lost has
    Clopper and Pearson's exact interval (McNemar's test is the same with the share 1/2).
    """
    lost, won = int((right_before & ~right_after).sum()), int((~right_before & right_after).sum())
    if not lost + won:
        return 0.0
    interval = stats.binomtest(lost, lost + won, alternative="greater").proportion_ci(confidence_level=_CONFIDENCE)
    return float((2 * interval.low - 1) * (lost + won) / len(right_before))


def require(parity: Parity, *, name: str) -> Parity:
    """Return the comparison if it passed.

    Raises:
        ParityError: it did not; the message holds the numbers and the bounds.
    """
    if parity.passed:
        return parity
    bounds = parity.tolerance.model_dump(exclude_none=True)
    cosine = "" if parity.cosine is None else f", cosine {parity.cosine:.5f}"
    accuracy = accuracy_text(parity)
    smallest = passing_rtol(parity)
    remedy = f"it would pass with --rtol {smallest:g}" if math.isfinite(smallest) else "no tolerance accepts NaN"
    raise ParityError(
        f"{name}: {parity.step} differs from its source: max {parity.max_abs:.3g}, mean {parity.mean_abs:.3g} at "
        f"logits up to {parity.scale:.3g}, {flips_text(parity)}{cosine}{accuracy and f', {accuracy}'}; allowed "
        f"{bounds}; nothing was published ({remedy}; --atol, --rtol or --no-verify change the "
        "tolerance, and the card says so)"
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


def _certainty(expected: Logits, tolerance: Tolerance, scale: float) -> npt.NDArray[np.float64]:
    """Return each image's margin over twice the error that the tolerance allows a logit [N]: above 1 it is decided.

    Where nothing bounds the error, every image is; a single output has no second class, and its image is no tie.
    """
    bounds = [
        tolerance.max_rel is not None and tolerance.max_rel * scale,
        tolerance.max_abs is not None and tolerance.max_abs * max(1.0, scale),
    ]
    allowed = np.full(len(expected), min((bound for bound in bounds if bound is not False), default=math.inf))
    if tolerance.cosine is not None:
        rms = np.sqrt(np.square(expected).mean(1))
        allowed = np.minimum(allowed, math.sqrt(2 * (1 - tolerance.cosine)) * rms)
    if expected.shape[1] < 2:
        return np.full(len(expected), math.inf)
    first, second = -np.partition(-expected, 1, axis=1)[:, :2].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isinf(allowed), math.inf, np.nan_to_num((first - second) / (2 * allowed), posinf=math.inf))


def _keeps_classes(num_flips: int, num_decided: int, tolerance: Tolerance) -> bool:
    """Say whether no decided image flips; where the tolerance has a share, whether no more do than chance explains."""
    if tolerance.top1_agreement is None:
        return num_flips == 0
    return bool(stats.binom.sf(num_flips - 1, num_decided, 1 - tolerance.top1_agreement) >= _LEAST_CHANCE)


def _mean_cosine(expected: Logits, actual: Logits) -> float:
    """Return the cosine between the two logits of an image, mean over the images; 0 where one is all zeros.

    A single output has no direction, so there it is the cosine between all images' answers.
    """
    if expected.shape[1] == 1:
        expected, actual = expected.T, actual.T
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return float(((expected * actual).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)).mean())
