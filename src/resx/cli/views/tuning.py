"""The settings that a tuning measured, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resx.card.tuning import MOST_SLOWER
from resx.cli.marks import show_done, show_next
from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.tuning import Setting, Tuning


def setting_text(setting: Setting) -> str:
    """Return a setting in one line."""
    batch = f", batches of {setting.max_batch}, delay {setting.delay_us} us" if setting.max_batch else ""
    return f"{setting.file_text}, {setting.threads_text}{batch}"


def ending(name: str, tuning: Tuning, *, better: bool, version: int) -> list[str]:
    """Return what became of the best setting: facts of one line; `version` is 0 where none was deployed."""
    if not better:
        return ["No setting is significantly better than the current one", "nothing was changed"]
    found = setting_text(tuning.chosen)
    if not version:
        return [f"Found a better setting for {name}: {found}", "nothing was changed (--dry-run)"]
    return [f"Tuned {name} v{version}: {found}", f"`resx tune {name} --undo` undoes it"]


def show_tuning(console: Console, tuning: Tuning, end: Sequence[str], next_step: str, plot: str) -> None:
    """Print every setting that was tried, the pairs of the best and the current one, and how it ended."""
    from resx.bench.tuning.ranking import front, latest

    best = front(tuning.trials)
    rows = [
        [
            setting_text(trial.setting),
            f"{trial.images_per_s:.1f}",
            _ms(trial.p50_ms),
            _ms(trial.p99_ms),
            _ms(trial.single_ms),
            _ms(trial.cpu_ms_per_request),
            "n/a" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e6:.0f}",
            "*" if trial in best else trial.invalid[:40],
        ]
        for trial in sorted(latest(tuning.trials), key=lambda trial: -trial.images_per_s)
    ]
    throughput = f"images/s at {tuning.slo}" if tuning.slo else "images/s"
    columns = ["setting", throughput, "p50 ms", "p99 ms", "single ms", "CPU ms", "MB", "front"]
    console.print(table("", columns, rows, least=("MB", "CPU ms", "p99 ms", "p50 ms")))
    console.print("front, *: no other setting is better in both images/s and single ms", markup=False)
    console.print("CPU ms: of the server per request; MB: of the server, with the current setting loaded", markup=False)
    if missing := next((trial.server_use_missing for trial in tuning.trials if trial.server_use_missing), ""):
        console.print(f"memory and CPU time: unknown: {missing}", markup=False, soft_wrap=True)
    if tuning.num_pairs > 1:
        console.print(_compare(tuning), markup=False, soft_wrap=True)
    if plot:
        print_lines(console, [f"wrote {plot}"])
    show_done(console, *end)
    show_next(console, next_step)


def _compare(tuning: Tuning) -> str:
    both = f"{setting_text(tuning.chosen)} / {setting_text(tuning.before)}"
    if tuning.ratio is None:
        slower = f"takes over {MOST_SLOWER:g} times as long for a single request"
        why = f"meets {tuning.slo} at no rate" if tuning.slo else slower
        return f"{both}: the latter {why}, in {tuning.num_pairs} pairs"
    what = "single ms" if tuning.objective == "latency" else "images/s"
    return f"{both}, {what}: {tuning.ratio:.3f} (95 %: {tuning.low:.3f} to {tuning.high:.3f}, {tuning.num_pairs} pairs)"


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
