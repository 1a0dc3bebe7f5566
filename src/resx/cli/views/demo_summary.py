"""What the demo found, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.bench.results.result import Measurement
from resx.cli.marks import show_done, show_next
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
    """Held-out digits whose served class equals PyTorch's, by protocol."""
    accuracy: float
    """Accuracy of the served answers."""
    measured: Measurement


class Summary(FrozenModel):
    """What the demo found."""

    accuracy: float
    """Accuracy of PyTorch on the held-out digits."""
    num_images: int
    fold_max_abs: float
    scale: float
    triton: str
    concurrency: int
    served: tuple[ServedSummary, ...]


def show_summary(console: Console, summary: Summary, next_step: str) -> None:
    """Print accuracy, and what was served of each precision; `next_step` is empty where answers were wrong."""
    show_done(
        console,
        "Trained, folded, exported, served and measured resnet20",
        f"{summary.accuracy:.2%} of {summary.num_images} held-out digits right",
        f"folding changed the logits by {summary.fold_max_abs / summary.scale:.0e} of their scale at most",
        good=bool(next_step),
    )
    rows = [
        [
            model.name,
            f"{model.size_kb:.0f}",
            f"{100 * model.fp16_share:.0f}",
            f"{model.max_abs:.1e}",
            f"{model.same['grpc']}/{summary.num_images}",
            f"{model.same['http']}/{summary.num_images}",
            f"{100 * model.accuracy:.2f}",
            f"{model.measured.images_per_s:.0f}",
            *(
                "n/a" if value is None else f"{value:.2f}"
                for value in (model.measured.p50_ms, model.measured.p90_ms, model.measured.p99_ms)
            ),
        ]
        for model in summary.served
    ]
    columns = ["served", "kB", "fp16 %", "max error", "same, grpc", "same, http", "accuracy %", "images/s", "p50 ms",
               "p90 ms", "p99 ms"]  # fmt: skip
    least = ("kB", "p90 ms", "fp16 %", "same, http", "max error")
    title = f"served by Triton {summary.triton}, concurrency {summary.concurrency}; same: class as PyTorch's"
    console.print(table(title, columns, rows, least=least))
    show_next(console, next_step)
