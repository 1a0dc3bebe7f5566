"""Forms of a comparison that nobody measured."""

from __future__ import annotations

from typing import Any

from resx.analysis.classification.evaluation import ImagesUsed, share_of
from resx.bench.exports.comparison import (
    ExportComparison,
    Form,
    FormFlips,
    FormSpeed,
    RoundSpread,
    best_of,
    mark_front,
)
from resx.card.parity_result import Parity, Tolerance

_PARITY = Parity(
    step="file",
    num_images=8,
    batch_sizes=(1, 2),
    scale=10.0,
    max_abs=2e-5,
    mean_abs=1e-6,
    top1_agreement=1.0,
    tolerance=Tolerance(max_rel=1e-3),
    passed=True,
)


def form(
    name: str, p50_ms: float = 1.0, *, right: int | None = None, size_mb: float = 1.0, images_per_s: float = 100.0
) -> Form:
    """A form as `onnxruntime fp32`; `right`: of 100 images."""
    runtime, precision = name.split()
    return Form(
        name=name,
        runtime=runtime,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        size_bytes=round(1e6 * size_mb),
        parity=_PARITY,
        speed=FormSpeed(
            p50_ms=RoundSpread(median=p50_ms, low=0.9 * p50_ms, high=1.2 * p50_ms),
            single_batch=1,
            images_per_s=RoundSpread(median=images_per_s, low=0.9 * images_per_s, high=images_per_s),
            batch_size=8,
            threads=2,
            memory_bytes=50_000_000,
        ),
        accuracy=None if right is None else share_of(right, 100),
        flips=None if right is None else FormFlips(num_flips=3, only_fp32_right=2, only_this_right=1, p_value=0.5),
    )


def failed(name: str, reason: str) -> Form:
    """A form that could not be exported."""
    runtime, precision = name.split()
    return Form(name=name, runtime=runtime, precision=precision, failed=reason)  # type: ignore[arg-type]


def comparison(*forms: Form, **changes: Any) -> ExportComparison:
    """A comparison of these forms."""
    marked, by = mark_front(forms)
    best = best_of(marked)
    has_images = any(one.accuracy for one in forms)
    images = ImagesUsed(data="d", part="held-out", origin="100 images of d", num_images=100, num_skipped=0)
    made = ExportComparison(
        source="runs/m",
        created="2026-01-01T00:00:00+00:00",
        command="resx compare runs/m",
        resx="1.0",
        processor="A processor",
        cores=2,
        rounds=3,
        duration_s=0.5,
        random_weights=False,
        images=images if has_images else None,
        forms=marked,
        front_by=by,
        best=best.name if best else None,
    )
    return made.model_copy(update=changes)
