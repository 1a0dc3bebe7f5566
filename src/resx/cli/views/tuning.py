"""The settings that a tuning measured, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.tuning import Setting, Tuning


def setting_text(setting: Setting) -> str:
    """Return a setting in one line."""
    batch = f", batches of {setting.max_batch}, delay {setting.delay_us} us" if setting.max_batch else ""
    return f"version {setting.version}, {setting.threads_text}{batch}"


def ending(name: str, *, better: bool, dry_run: bool, version: int) -> str:
    """Return what became of the best setting."""
    if not better:
        return "no setting is surely better than the one in force; nothing was changed"
    if dry_run:
        return "--dry-run: nothing was changed"
    return f"{name} version {version} answers with it; `resx tune {name} --undo` takes it back"


def show_tuning(console: Console, tuning: Tuning, end: Sequence[str]) -> None:
    """Print every setting that was tried, and the pairs of the best and the current one."""
    from resx.bench.tuning.tuning import front, latest

    best = front(tuning.trials)
    rows = [
        [
            setting_text(trial.setting),
            f"{trial.images_per_s:.1f}",
            _ms(trial.p50_ms),
            _ms(trial.p99_ms),
            _ms(trial.single_ms),
            "*" if trial in best else trial.invalid[:40],
        ]
        for trial in sorted(latest(tuning.trials), key=lambda trial: -trial.images_per_s)
    ]
    throughput = f"images/s at {tuning.slo}" if tuning.slo else "images/s"
    columns = ["setting", throughput, "p50 ms", "p99 ms", "single ms", "front"]
    console.print(table("", columns, rows))
    console.print("front, *: no other setting is better in both images/s and single ms", markup=False)
    if tuning.num_pairs > 1:
        console.print(_compare(tuning), markup=False, soft_wrap=True)
    print_lines(console, end)


def _compare(tuning: Tuning) -> str:
    both = f"{setting_text(tuning.chosen)} / {setting_text(tuning.before)}"
    if tuning.ratio is None:
        return f"{both}: the latter holds {tuning.slo} at no rate, in {tuning.num_pairs} pairs"
    what = "images/s" if tuning.objective == "throughput" else "single ms"
    return f"{both}, {what}: {tuning.ratio:.3f} (95 %: {tuning.low:.3f} to {tuning.high:.3f}, {tuning.num_pairs} pairs)"


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
