"""What the demo found, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.bench.results.result import Measurement
from resx.cli.output import table
from resx.values import FrozenModel

if TYPE_CHECKING:
    from rich.console import Console


class ServedSummary(FrozenModel):
    """What came out for one precision."""

    name: str
    size_kb: float
    fp16_share: float
    max_abs: float
    """Largest difference of the file's logits from PyTorch's, at export."""
    same: dict[str, int]
    """Per protocol: held-out digits whose served class is PyTorch's."""
    accuracy: float
    """Of the served answers."""
    measured: Measurement


class Summary(FrozenModel):
    """What the demo found."""

    accuracy: float
    """Of PyTorch, on the held-out digits."""
    num_images: int
    fold_max_abs: float
    scale: float
    triton: str
    concurrency: int
    served: tuple[ServedSummary, ...]


def show_summary(console: Console, summary: Summary) -> None:
    """Print accuracy, and what was served of each precision."""
    console.print(
        f"resnet20, survival 0.5 at the last block: {summary.accuracy:.2%} of {summary.num_images} held-out digits "
        f"right; folding changed the logits by {summary.fold_max_abs:.1e} at most (scale {summary.scale:.3g})",
        soft_wrap=True,
    )
    rows = [
        [
            model.name,
            f"{model.size_kb:.0f} kB",
            f"{model.fp16_share:.0%}",
            f"{model.max_abs:.1e}",
            f"{model.same['grpc']}/{summary.num_images}",
            f"{model.same['http']}/{summary.num_images}",
            f"{model.accuracy:.2%}",
            f"{model.measured.images_per_s:.0f}",
            *(
                "n/a" if value is None else f"{value:.2f}"
                for value in (model.measured.p50_ms, model.measured.p90_ms, model.measured.p99_ms)
            ),
        ]
        for model in summary.served
    ]
    columns = ["served", "file", "fp16", "max difference", "as PyTorch, grpc", "as PyTorch, http", "accuracy",
               "images/s", "p50 ms", "p90 ms", "p99 ms"]  # fmt: skip
    console.print(table(f"served by Triton {summary.triton}, concurrency {summary.concurrency}", columns, rows))
