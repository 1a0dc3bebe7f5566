"""What a verification found: of a version, or of two files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from resx.cli.fitting_table import Cell
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done, verdict
from resx.cli.output import table
from resx.cli.views.version_card import accelerated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from resx.card.card import Card
    from resx.card.parity_result import Parity
    from resx.export.checks.accuracy import Accuracies
    from resx.export.checks.file_comparison import Comparison, Divergence
    from resx.serving.deployment.verification import Verification


_SMALLEST = "least --rtol"
"""With which it would pass."""
_LEAST = (_SMALLEST, "p99", "mean", "scale", "rows", "images")


def comparison_as_json(
    found: Comparison, accuracies: Accuracies | None, divergence: Divergence | None
) -> dict[str, Any]:
    """Return what `--json` prints of two files."""
    payload: dict[str, Any] = {
        "passed": found.passed and (accuracies is None or accuracies.passed),
        "outputs": [_finite(one.model_dump(mode="json")) for one in found.outputs],
        "batch_sizes": list(found.batch_sizes),
        "num_noise": found.num_noise,
        "num_photographs": found.num_photographs,
        "accuracy": _accuracy(accuracies),
    }
    if divergence:
        payload["first_divergence"] = _finite(
            {"tensor": divergence.tensor, "operator": divergence.operator, "relative": divergence.relative}
        )
    return payload


def show_comparison(
    console: Console, found: Comparison, accuracies: Accuracies | None, divergence: Divergence | None
) -> None:
    """Print how far the outputs of two files are from one another."""
    rows: list[list[Cell]] = [
        [
            one.output,
            str(one.num_rows),
            f"{one.scale:.3g}",
            f"{one.max_abs:.2e}",
            f"{one.mean_abs:.2e}",
            f"{one.p99_abs:.2e}",
            f"{one.cosine:.6f}",
            f"{100 * one.top1_agreement:.1f}",
            f"{one.smallest_rtol:.2e}",
            _verdict(passed=one.passed),
        ]
        for one in found.outputs
    ]
    columns = ["output", "rows", "scale", "max", "mean", "p99", "cosine", "top-1 %", _SMALLEST, "verdict"]
    console.print(table("", columns, rows, least=_LEAST))
    sizes = ", ".join(map(str, found.batch_sizes))
    console.print(f"{found.num_noise} inputs of noise, {found.num_photographs} photographs, batches of {sizes}")
    if accuracies:
        print_text(console, f"accuracy: {accuracies.text}")
    if divergence:
        print_text(
            console,
            f"first difference: {divergence.tensor} ({divergence.operator}), {divergence.relative:.2e} of its scale; "
            f"{divergence.num_compared} tensors compared",
        )
    if found.passed and (accuracies is None or accuracies.passed):
        worst = max(one.smallest_rtol for one in found.outputs)
        show_done(console, "The files agree", f"largest difference {worst:.0e} of an output's scale")


def verification_as_json(name: str, version: int, card: Card, found: Verification) -> dict[str, Any]:
    """Return what `--json` prints of a version."""
    return {
        "name": name,
        "version": version,
        "accelerator": card.accelerator,
        "passed": all(check.passed for check in found.checks),
        "checks": [
            {"what": c.what, "passed": c.passed, "skipped": c.skipped, "detail": c.detail} for c in found.checks
        ],
        "steps": [
            _finite({"when": when} | step.model_dump(mode="json") | {"smallest_rtol": _smallest(step)})
            for when, step in _steps(card, found)
        ],
        "accuracy": _accuracy(found.accuracies),
    }


def _steps(card: Card, found: Verification) -> list[tuple[str, Parity]]:
    """Return every measured step: those of the export, from the card, and the one that was repeated."""
    return [*(("export", step) for step in card.steps), *([("now", found.again)] if found.again else [])]


def show_verification(console: Console, title: str, card: Card, found: Verification) -> None:
    """Print each check's verdict, and the differences that were measured."""
    rows: list[list[Cell]] = [[c.what, _verdict(passed=c.passed, skipped=c.skipped), c.detail] for c in found.checks]
    console.print(table("", ["check", "verdict", "detail"], rows, left=3))
    measured: list[list[Cell]] = [
        [
            when,
            step.step,
            str(step.num_images),
            f"{step.scale:.3g}",
            f"{step.max_abs:.2e}",
            f"{step.mean_abs:.2e}",
            "-" if step.p99_abs is None else f"{step.p99_abs:.2e}",
            "-" if step.cosine is None else f"{step.cosine:.6f}",
            f"{100 * step.top1_agreement:.1f}",
            f"{_smallest(step):.2e}",
            _verdict(passed=step.passed),
        ]
        for when, step in _steps(card, found)
    ]
    columns = ["measured", "step", "images", "scale", "max", "mean", "p99", "cosine", "top-1 %", _SMALLEST]
    if measured:
        console.print(table("", [*columns, "verdict"], measured, left=2, least=_LEAST))
    if text := accelerated(card):
        print_text(console, text)
    if all(check.passed for check in found.checks):
        done = [check for check in found.checks if not check.skipped]
        skipped = f"{len(found.checks) - len(done)} skipped" if len(done) < len(found.checks) else ""
        show_done(console, f"Verified {title}", f"{len(done)} checks passed", skipped)


def _verdict(*, passed: bool, skipped: bool = False) -> Text:
    if skipped:
        return verdict("skipped", good=None)
    return verdict("passed" if passed else "failed", good=passed)


def _smallest(step: Parity) -> float:
    from resx.export.checks.parity import passing_rtol

    return passing_rtol(step)


def _accuracy(found: Accuracies | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"num_images": found.num_images, "images": found.images, **found.shares, "passed": found.passed}


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON cannot hold by None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()
    }
