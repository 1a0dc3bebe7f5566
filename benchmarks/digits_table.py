"""The papers' comparisons on the digits: a table of held-out accuracy, mean and spread over seeds.

    python benchmarks/digits_table.py -o docs/digits.md            everything, about an hour on two cores
    python benchmarks/digits_table.py --rows depth --seeds 0 --epochs 2

One small budget for all: the digits recipe, 16 pixels, the same epochs and seeds. Every training is a run
folder below --runs; a run that is there already is resumed, so the table can be interrupted. What is printed
is what came out, whatever it says.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from resx.data.dataset import DataSet
from resx.data.loading import load_data
from resx.errors import ResxError, UsageError
from resx.training import checkpoint
from resx.training.config import TrainingConfig
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from resx.zoo.catalog import variant


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A network of the table."""

    name: str
    survival: float = 1.0

    @property
    def title(self) -> str:
        """As the table calls it."""
        return self.name if self.survival == 1.0 else f"{self.name}, p_L = {self.survival:g}"


QUESTIONS: dict[str, tuple[str, tuple[Entry, ...]]] = {
    "shortcuts": ("Shortcuts at 56 layers (He et al. 2015)", (Entry(name="plain56"), Entry(name="resnet56"))),
    "preactivation": (
        "Original against full pre-activation at 110 layers (He et al. 2016)",
        (Entry(name="resnet110"), Entry(name="preresnet110")),
    ),
    "depth": (
        "Constant against stochastic depth at 110 layers (Huang et al. 2016)",
        (Entry(name="resnet110"), Entry(name="resnet110", survival=0.5)),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One training."""

    accuracy: float
    """Of the held-out images after the last epoch; not a number if the training diverged."""
    loss: float
    """Mean over the training images in the last epoch."""
    seconds: float


_NEXT = (
    "**Next:** [Training](training.md) has the recipes; [Lesion results](ensembles.md) has what the trained networks "
    "do without blocks."
)


def main() -> int:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--runs", type=Path, default=Path("runs/digits-table"))
    parser.add_argument("-o", "--output", type=Path, help="write the table there too")
    options = parser.parse_args()

    try:
        entries = {entry for row in options.rows for entry in QUESTIONS[row][1]}
        for entry in entries:
            variant(entry.name)  # every name is known before an hour is spent
        data = load_data("digits", image_size=options.image_size)
        outcomes = {
            entry: [_outcome(entry, seed, data, options) for seed in options.seeds]
            for entry in sorted(entries, key=lambda entry: entry.title)
        }
    except ResxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    table = _table(options, data, outcomes)
    print(table)
    if options.output:
        options.output.write_text(table)
    return 0


def _outcome(entry: Entry, seed: int, data: DataSet, options: argparse.Namespace) -> Outcome:
    folder = options.runs / f"{entry.name}-survival{entry.survival:g}-seed{seed}"
    changes = {"epochs": options.epochs, "batch_size": options.batch_size, "seed": seed}
    config: TrainingConfig = configure("digits", "digits", changes)
    spec = variant(entry.name).spec.with_changes(
        classes=len(data.labels), labels=data.labels, image=data.image, survival=entry.survival
    )
    metrics: list[checkpoint.Metrics] = []
    started = time.monotonic()
    try:
        train(
            TrainingRun(spec=spec, data=data, config=config, folder=folder, resume=checkpoint.is_run(folder)),
            on_epoch=metrics.append,
        )
    except UsageError:
        raise
    except ResxError as error:  # a network that diverges is a result too
        print(f"{entry.title}, seed {seed}: {error}", file=sys.stderr)
        return Outcome(accuracy=float("nan"), loss=float("nan"), seconds=time.monotonic() - started)
    last = metrics[-1]
    seconds = sum(len(data.train) / entry["images_per_s"] for entry in metrics)
    print(
        f"{entry.title}, seed {seed}: {last['accuracy']:.2%}, loss {last['loss']:.3f}, {seconds:.0f} s", file=sys.stderr
    )
    return Outcome(accuracy=last["accuracy"], loss=last["loss"], seconds=seconds)


def _table(options: argparse.Namespace, data: DataSet, outcomes: dict[Entry, list[Outcome]]) -> str:
    lines = [
        "# The papers' comparisons on the digits",
        "",
        f"Written by `python benchmarks/digits_table.py --epochs {options.epochs}` (`make digits-table`): batch "
        f"{options.batch_size}, {options.image_size} pixels, seeds {', '.join(map(str, options.seeds))}; "
        f"{len(data.train):,} images to train on, {len(data.held_out)} held out. "
        "Mean, and lowest to highest of the seeds. One image is "
        f"{100 / len(data.held_out):.2f} points.",
    ]
    for row in options.rows:
        title, entries = QUESTIONS[row]
        lines += [
            "",
            f"## {title}",
            "",
            "| network | held-out accuracy | training loss |",
            "|---|---|---|",
        ]
        lines += [_line(entry, outcomes[entry]) for entry in entries]
    return "\n".join([*lines, "", _NEXT]) + "\n"


def _line(entry: Entry, outcomes: list[Outcome]) -> str:
    accuracies, losses = [100 * one.accuracy for one in outcomes], [one.loss for one in outcomes]
    return (
        f"| {entry.title} | {statistics.mean(accuracies):.2f} % ({min(accuracies):.2f} to {max(accuracies):.2f}) "
        f"| {statistics.mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f}) |"
    )


if __name__ == "__main__":
    sys.exit(main())
