"""The settings that a tuning measured, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resx.card.tuning import MOST_SLOWER
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done, show_next
from resx.cli.output import print_lines, table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.tuning import Setting, Tuning


def setting_text(setting: Setting, *, with_file: bool = True) -> str:
    """Return a setting in one line; without `with_file` what is set on the server alone."""
    batch = f", batch {setting.max_batch}" if setting.max_batch else ""
    delay = f", delay {setting.delay_us} us" if setting.max_batch and setting.delay_us else ""
    return f"{f'{setting.file_text}, ' if with_file else ''}{setting.threads_text}{batch}{delay}"


def trial_text(place: str, setting: Setting, num_files: int) -> str:
    """Return which trial is measured, in one line; one file of several is named."""
    return f"{place[:1].upper()}{place[1:]}: {setting_text(setting, with_file=num_files > 1)}"


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
    files = {trial.setting.file_text for trial in tuning.trials}
    short = len(files) == 1
    if short:
        print_text(console, f"{files.pop()}; setting: instances x threads, batch size, queue delay")
    rows = [
        [
            setting_text(trial.setting, with_file=not short),
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
    print_text(console, "front, *: no other setting is better in both images/s and single ms")
    print_text(console, "CPU ms: server CPU time per request; MB: server memory, with the current setting loaded too")
    if missing := next((trial.server_use_missing for trial in tuning.trials if trial.server_use_missing), ""):
        print_text(console, f"server memory and CPU time unknown: {missing}")
    if tuning.num_pairs > 1:
        print_text(console, _compare(tuning))
    if plot:
        print_lines(console, [f"wrote {plot}"])
    show_done(console, *end)
    show_next(console, next_step)


def _compare(tuning: Tuning) -> str:
    both = f"best: {setting_text(tuning.chosen)}; current: {setting_text(tuning.before)}"
    if tuning.ratio is None:
        slower = f"takes over {MOST_SLOWER:g} times as long for a single request"
        why = f"does not meet {tuning.slo} at any rate" if tuning.slo else slower
        return f"The current setting {why} ({tuning.num_pairs} pairs); {both}"
    what = "single ms" if tuning.objective == "latency" else "images/s"
    interval = f"95% interval {tuning.low:.3f} to {tuning.high:.3f}, {tuning.num_pairs} pairs"
    return f"{what}, best / current: {tuning.ratio:.3f} ({interval}); {both}"


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
