"""The forms of one model side by side: each is verified, measured and asked the same images, or stands with a reason.

A form is a runtime with a precision, as `onnxruntime int8`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, TypeAlias

from resx.analysis.classification.evaluation import ImagesUsed, Share
from resx.analysis.classification.paired_comparison import PairedComparison
from resx.card.kinds import Precision
from resx.card.parity_result import Parity
from resx.card.runtime import RuntimeName
from resx.pareto import pareto_front
from resx.values import FrozenModel

FrontBy: TypeAlias = Literal["latency and accuracy", "latency and size"]


class RoundSpread(FrozenModel):
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    @property
    def half_range(self) -> float:
        """Half the distance from the lowest round to the highest."""
        return (self.high - self.low) / 2


class FormSpeed(FrozenModel):
    """What a form's file did in a process of its own, without a server."""

    p50_ms: RoundSpread
    """Median time of a batch of `single_batch` images, in each round."""
    single_batch: int
    """1, unless the file takes batches of one size only."""
    images_per_s: RoundSpread
    """At batches of `batch_size`."""
    batch_size: int
    threads: int
    memory_bytes: int | None
    """By how much the process grew when it opened and ran the file: runtime, weights, working memory. None: the kernel
    does not say."""


class FormFlips(FrozenModel):
    """What becomes of each image from the fp32 form to this one."""

    num_flips: int
    """Images that the two answer differently, right or wrong."""
    only_fp32_right: int
    only_this_right: int
    p_value: float
    """McNemar's exact test, two-sided."""

    @classmethod
    def of(cls, paired: PairedComparison) -> FormFlips:
        """Return the counts of a comparison whose first model is the fp32 form."""
        return cls(
            num_flips=paired.num_flips,
            only_fp32_right=paired.only_first_right,
            only_this_right=paired.only_second_right,
            p_value=paired.p_value,
        )


class Form(FrozenModel):
    """One form."""

    name: str
    """Runtime and precision."""
    runtime: RuntimeName
    precision: Precision
    failed: str = ""
    """Why there is no such file, or no figure of it; empty for a form that was verified and measured."""
    size_bytes: int | None = None
    """Of all files that the runtime reads."""
    parity: Parity | None = None
    """The export's last step against its source; None where it failed."""
    speed: FormSpeed | None = None
    accuracy: Share | None = None
    """Of the images of `ExportComparison.images`."""
    flips: FormFlips | None = None
    """Against the first fp32 form; None for that one, without images, and without an fp32 form."""
    on_front: bool = False
    """Whether no other form is as good or better in both costs of `ExportComparison.front_by`."""


class Picked(FrozenModel):
    """The form that was published."""

    conditions: str
    form: str
    name: str
    version: int


class ExportComparison(FrozenModel):
    """What was compared, and the forms."""

    source: str
    created: str
    command: str
    resx: str
    processor: str
    cores: int
    rounds: int
    duration_s: float
    """Of each measurement."""
    random_weights: bool
    images: ImagesUsed | None
    """What accuracy was measured on; None: it was not."""
    forms: tuple[Form, ...]
    front_by: FrontBy
    best: str | None
    """The form with the highest accuracy, of equals the one with the lowest latency; None where every form failed."""
    picked: Picked | None = None

    @property
    def measured(self) -> list[Form]:
        """The forms that did not fail."""
        return [form for form in self.forms if not form.failed]


def spread_of(values: Sequence[float]) -> RoundSpread:
    """Return median, lowest and highest of one value or more."""
    return RoundSpread(median=statistics.median(values), low=min(values), high=max(values))


def latency_ms(form: Form) -> float:
    """Return a measured form's median latency."""
    assert form.speed is not None
    return form.speed.p50_ms.median


def best_of(forms: Sequence[Form]) -> Form | None:
    """Return the measured form with the highest accuracy, of equals the one with the lowest latency."""
    measured = [form for form in forms if not form.failed]
    return min(measured, key=lambda form: (-_accuracy(form), latency_ms(form)), default=None)


def mark_front(forms: Sequence[Form]) -> tuple[tuple[Form, ...], FrontBy]:
    """Return the forms, of which those that no other beats in both costs are marked, and what the costs are.

    The costs are latency and accuracy; latency and size where accuracy was not measured.
    """
    measured = [form for form in forms if not form.failed]
    by: FrontBy = "latency and accuracy" if any(form.accuracy for form in measured) else "latency and size"

    def costs(form: Form) -> tuple[float, float]:
        return latency_ms(form), -_accuracy(form) if by == "latency and accuracy" else form.size_bytes or 0

    names = {form.name for form in pareto_front(measured, costs)}
    return tuple(form.model_copy(update={"on_front": form.name in names}) for form in forms), by


def _accuracy(form: Form) -> float:
    return form.accuracy.share if form.accuracy else 0.0
