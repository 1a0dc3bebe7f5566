"""What `resx tune` measured: each setting's throughput and single latency, and the front of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resx.bench.tuning.ranking import front, latest
from resx.card.tuning import Setting, Trial, Tuning
from resx.figures import Figure, Look


def tuning_figure(name: str, tuning: Tuning) -> Figure:
    """Return the figure: settings as points, those that no other beats in both joined by a line."""
    measured = [trial for trial in latest(tuning.trials) if not trial.invalid and trial.single_ms]
    best = sorted(front(tuning.trials), key=lambda trial: trial.images_per_s)
    what = f"highest rate that meets {tuning.slo}" if tuning.slo else f"{tuning.concurrency} requests in flight"

    def draw(axes: Any, look: Look) -> None:
        axes.scatter(*_places(measured), color=look.grid, edgecolor=look.text, s=28, label="a setting", zorder=2)
        axes.plot(*_places(best), "-o", color=look.main, ms=5, label="no other setting is better in both", zorder=3)
        middle = sum(axes.get_xlim()) / 2
        for number, trial in enumerate(best):
            right = trial.images_per_s > middle
            axes.annotate(
                _short(trial.setting, tuning),
                (trial.images_per_s, trial.single_ms or 0),
                fontsize=7,
                xytext=(-8 if right else 8, -10 - 9 * (number % 2)),
                textcoords="offset points",
                color=look.main,
                ha="right" if right else "left",
            )
        for label, setting, marker, size in (("before", tuning.before, "s", 60), ("chosen", tuning.chosen, "*", 150)):
            at = [trial for trial in measured if trial.setting == setting]
            axes.scatter(
                *_places(at),
                marker=marker,
                s=size,
                facecolor="none",
                edgecolor=look.second,
                linewidth=1.4,
                zorder=4,
                label=f"{label}: {_short(setting, tuning)}",
            )
        axes.set(xlabel=f"images per second, {what}", ylabel="median of single requests, ms")
        axes.margins(0.12)
        axes.legend(fontsize=7)

    return Figure(name="tuning", panels=(draw,), caption=f"{name}: {tuning.cores} cores, {tuning.processor}")


def _places(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.images_per_s for trial in trials], [trial.single_ms or 0.0 for trial in trials]


def _short(setting: Setting, tuning: Tuning) -> str:
    several = len({trial.setting.file_text for trial in tuning.trials}) > 1
    version = f"{setting.file_text}, " if several else ""
    return f"{version}{setting.threads_text}, batch {setting.max_batch or 'fixed'}, {setting.delay_us} us"
