"""How far one step's output is from its input's, and what it may be."""

from __future__ import annotations

from resx.card.kinds import BatchSize, NumImages
from resx.values import FrozenModel


class Tolerance(FrozenModel):
    """What a step may change. All bounds are relative to the logits' scale, the largest |reference|.

    How they are judged, and why they have these values: `resx.export.checks.parity`.
    """

    max_abs: float | None = None
    """Bound on the largest difference, times max(1, scale)."""
    max_rel: float | None = None
    """Bound on the largest difference, times scale."""
    mean_rel: float | None = None
    """Bound on the mean difference, times scale."""
    top1_agreement: float | None = None
    """Share of decided images that keep their most likely class; fewer fail only where chance does not explain it."""
    cosine: float | None = None
    """Least cosine between the two logits of an image, mean over the images."""
    accuracy_drop: float | None = None
    """Most that accuracy may fall, as a share of the images; where their classes are known."""


class Parity(FrozenModel):
    """How far one step's output is from its input's, over all images that were tried."""

    step: str
    num_images: NumImages
    batch_sizes: tuple[BatchSize, ...]
    scale: float
    max_abs: float
    mean_abs: float
    p99_abs: float | None = None
    """99 of 100 logits differ by no more."""
    top1_agreement: float
    """Share of all images with the same most likely class."""
    num_flips: NumImages | None = None
    """Images with another most likely class; None, as the next three, in cards from before they were counted."""
    num_decided: NumImages | None = None
    """Images whose reference margin, first logit less second, is above twice the error that the tolerance allows."""
    num_decided_flips: NumImages | None = None
    """Flips among those; the others are near ties, which are reported and not judged."""
    near_tie_margin: float | None = None
    """Widest reference margin of a near tie that flipped, as a share of what makes an image decided."""
    cosine: float | None = None
    """None, as `p99_abs`, in cards from before it was measured."""
    accuracy: float | None = None
    reference_accuracy: float | None = None
    """Accuracy of the reference on the images with known classes; None without such images."""
    num_labelled: NumImages | None = None
    """Number of images with known classes."""
    accuracy_drop_low: float | None = None
    """Lower end of the one-sided 95 % interval of the fall in accuracy, as a share of the images."""
    tolerance: Tolerance
    passed: bool


class GpuParity(FrozenModel):
    """How far the file's output is from its source's on a GPU, without and with TF32 (`resx.export.gpu_parity`)."""

    gpu: str
    compute_capability: str
    """Compute capability of the GPU, such as `8.6`."""
    runtime: str
    """What ran the file, with its version."""
    tf32_off: Parity | None
    tf32_on: Parity | None
    """None, as `tf32_off`, where the file was not run so: an engine in which TF32 can change nothing, or one that was
    built elsewhere."""

    @property
    def steps(self) -> tuple[Parity, ...]:
        """Those that were measured."""
        return tuple(step for step in (self.tf32_off, self.tf32_on) if step is not None)


def flips_text(parity: Parity) -> str:
    """Return how many images changed their class, and how near to a tie those were that are not judged."""
    if parity.num_flips is None:
        return f"top-1 agreement {parity.top1_agreement:.1%}"
    text = f"{parity.num_flips} of {parity.num_images} images change class"
    num_near_ties = parity.num_flips - (parity.num_decided_flips or 0)
    if parity.near_tie_margin is None or not num_near_ties:
        return text
    ties = "a near tie" if num_near_ties == 1 else f"{num_near_ties} near ties"
    return f"{text} ({ties}, margin {100 * parity.near_tie_margin:.2g} % of the bound)"


def accuracy_text(parity: Parity) -> str:
    """Return what became of accuracy; empty where no classes are known."""
    if parity.accuracy is None or parity.reference_accuracy is None:
        return ""
    return (
        f"accuracy {parity.accuracy:.2%} for {parity.reference_accuracy:.2%} on "
        f"{parity.num_labelled or parity.num_images} images"
    )
