"""How a training goes, and what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.command_lines import command_line
from resx.cli.marks import show_done, show_next
from resx.cli.output import Output, stderr_console
from resx.cli.views.progress import show_bar

if TYPE_CHECKING:
    from rich.console import Console

    from resx.data.dataset import DataSet
    from resx.training.config import TrainingConfig
    from resx.training.loop import OnEpoch, OnStep
    from resx.zoo.spec import ModelSpec


@contextlib.contextmanager
def show_training(out: Output, config: TrainingConfig, device: str) -> Iterator[tuple[OnStep, OnEpoch]]:
    """Give the callbacks: a bar on a terminal, a line when training begins and one per epoch everywhere."""
    with show_bar(out, "steps") as on_progress:
        began, begun_at = time.monotonic(), -1

        def on_step(done: int, total: int) -> None:
            nonlocal begun_at
            if begun_at < 0:
                begun_at = done - 1  # a resumed run's time left counts from where it goes on
                out.note(f"Training on {_computer(config, device)}")
            on_progress(done, total)

        def on_epoch(entry: dict[str, Any]) -> None:
            epochs = config.epochs
            text = (
                f"  epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  accuracy {entry['accuracy']:.2%}  "
                f"{entry['images_per_s']:.0f} images/s"
            )
            if "validation_accuracy" in entry:
                text += f"  validation {entry['validation_accuracy']:.2%}"
            if begun_at >= 0:
                per_step_s = (time.monotonic() - began) / (entry["step"] - begun_at)
                steps_left = entry["step"] / entry["epoch"] * (epochs - entry["epoch"])
                text += f"  {clock_time(per_step_s * steps_left)} left"
            if not out.quiet:
                stderr_console().print(text)

        yield on_step, on_epoch


def show_run(
    out: Output, spec: ModelSpec, data: DataSet, config: TrainingConfig, folder: Path, metrics: list[dict[str, Any]]
) -> None:
    """Print what a run reached."""
    from resx.training.runs.run_metrics import VALIDATION_ACCURACY, best_of

    last, best = metrics[-1], metrics[best_of(metrics, config.best_by)]
    chosen_on = "validation" if VALIDATION_ACCURACY in best else "held-out"
    payload = {
        "run": str(folder), "model": spec.name, "recipe": config.recipe, "num_held_out": len(data.held_out),
        "num_skipped": len(data.skipped), "num_hidden": data.hidden, "num_copies": len(data.copies),
        "num_conflicting": len(data.conflicting), "num_in_both": data.num_in_both, "skipped_files": data.others,
        "classes_not_held_out": data.not_held_out, "checksum": data.checksum, "remarks": data.remarks,
        "best_epoch": best["epoch"], "best_accuracy": best["accuracy"], "best_chosen_on": chosen_on, **last,
    }  # fmt: skip
    num_classes = len(data.labels) - len(data.not_held_out)
    of_classes = f" of {num_classes} of {len(data.labels)} classes" if data.not_held_out else ""
    chosen = f"chosen {_chosen_by(config)}on the {chosen_on} images"
    facts = [
        f"Trained {spec.name}",
        f"{last['epoch']} epoch{'' if last['epoch'] == 1 else 's'}"
        + (f" of {config.epochs}, none better in {config.patience}" if last["epoch"] < config.epochs else ""),
        f"{last['accuracy']:.2%} of {len(data.held_out)} held-out images{of_classes} right",
        f"best {best['accuracy']:.2%} after epoch {best['epoch']}, {chosen}",
        str(folder),
    ]

    def show(console: Console) -> None:
        show_done(console, *facts)
        show_next(console, command_line("export", folder))

    out.result(payload, show)


def _chosen_by(config: TrainingConfig) -> str:
    return "" if config.best_by == "accuracy" else f"by {config.best_by.replace('-', ' ')} "


def _computer(config: TrainingConfig, device: str) -> str:
    """Say what computes, and how."""
    where = "the CPU" if device == "cpu" else device
    if config.num_processes > 1:
        where = f"{config.num_processes} processes, the first on {where}"
    how = [config.precision, *(["channels last"] if config.channels_last else []), *(["compiled"] * config.compiled)]
    return f"{where}: {', '.join(how)}"


def clock_time(seconds: float) -> str:
    """Return a time as `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
