"""Fine-tuning beside training from scratch: digits 5 to 9 from a run that knows digits 0 to 4; the table of the page.

    python benchmarks/fine_tuning_table.py --page docs/how-to/fine-tuning.md     about 15 minutes on one core
    python benchmarks/fine_tuning_table.py --seeds 0 1 --epochs 1 2 --images 10

For each seed, a network is trained on the digits 0 to 4. Then the digits 5 to 9 are trained on twice for each number of
epochs and of images a class: from that network and from random weights, with the same seed, images and settings. Each
training has a schedule of its own length. Intervals are Student's t over the seeds; those of the difference are paired.
Every accuracy is kept in --cache, so the table goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from resx.data.dataset import DataSet, Split
from resx.data.loading import load_data
from resx.errors import ResxError
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from resx.training.runs import checkpoint
from resx.training.starting_weights import load_starting_weights
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec

HEADING = "## How much it helps"
_KNOWN, _NEW = range(5), range(5, 10)
_SOURCE_EPOCHS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One comparison: so many images of each class, and epochs; 0 images are all."""

    num_images: int
    epochs: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What all trainings share."""

    name: str
    image_size: int
    cache: Path


def main() -> int:
    """Measure what is missing, print the table, and write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--images", nargs="+", type=int, default=[10, 50, 0], help="of each class; 0: all")
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 2, 3, 5, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--cache", type=Path, default=Path("build/fine-tuning"))
    parser.add_argument("--page", type=Path, help="write the table into its section of this page")
    options = parser.parse_args()
    settings = Settings(name=options.model, image_size=options.image_size, cache=options.cache)
    cases = [
        Case(num_images=num_images, epochs=epochs, seed=seed)
        for num_images in options.images
        for epochs in options.epochs
        for seed in options.seeds
    ]
    try:
        found = dict(_measure(cases, settings))
    except ResxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    section = _section(found, settings, options)
    print(section)
    if options.page:
        options.page.write_text(replace_section(options.page.read_text(), section))
    return 0


def replace_section(page: str, section: str) -> str:
    """Return a page with the section of the table replaced, up to the next heading of its rank."""
    before, _, rest = page.partition(f"{HEADING}\n")
    _, heading, after = rest.partition("\n## ")
    return f"{before}{section}{heading}{after}"


def _measure(cases: Sequence[Case], settings: Settings) -> Iterator[tuple[Case, tuple[float, float]]]:
    """Yield each case with the accuracy from weights and from scratch, in per cent, as soon as it is known."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    rows = settings.cache / f"{settings.name}-{settings.image_size}px.jsonl"
    kept = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    known = {Case(**row["case"]): (row["fine_tuned"], row["scratch"]) for row in kept}
    digits = load_data("digits", image_size=settings.image_size)
    for case in cases:
        if case not in known:
            source = _source_run(digits, case.seed, settings)
            data = _few(_only(digits, _NEW), case)
            known[case] = (_accuracy(data, case, settings, source), _accuracy(data, case, settings, None))
            with rows.open("a") as file:
                row = {"case": asdict(case), "fine_tuned": known[case][0], "scratch": known[case][1]}
                file.write(json.dumps(row) + "\n")
            print(f"{case}: {known[case][0]:.2f} {known[case][1]:.2f}", file=sys.stderr)
        yield case, known[case]


def _only(digits: DataSet, classes: range) -> DataSet:
    """Return the images of some classes, which are adjacent."""

    def part(split: Split) -> Split:
        chosen = np.flatnonzero(np.isin(split.targets, classes))
        return Split(images=split.images[chosen], targets=split.targets[chosen] - classes.start)

    labels = digits.labels[classes.start : classes.stop]
    return DataSet(
        name="digits", labels=labels, image=digits.image, train=part(digits.train), held_out=part(digits.held_out)
    )


def _few(data: DataSet, case: Case) -> DataSet:
    """Return the data with so many training images of each class, drawn by the seed."""
    if not case.num_images:
        return data
    random, targets = np.random.default_rng([case.seed, case.num_images]), data.train.targets
    drawn = [random.permutation(np.flatnonzero(targets == number))[: case.num_images] for number in np.unique(targets)]
    chosen = np.sort(np.concatenate(drawn))
    train_part = Split(images=data.train.images[chosen], targets=targets[chosen])
    return DataSet(name=data.name, labels=data.labels, image=data.image, train=train_part, held_out=data.held_out)


def _spec(data: DataSet, settings: Settings) -> ModelSpec:
    classes = len(data.labels)
    return variant(settings.name).spec.with_changes(classes=classes, labels=data.labels, image=data.image)


def _source_run(digits: DataSet, seed: int, settings: Settings) -> Path:
    folder = settings.cache / f"{settings.name}-{settings.image_size}px-source-{seed}"
    data, is_there = _only(digits, _KNOWN), checkpoint.is_run(folder)
    config = configure("digits", "digits", {"epochs": _SOURCE_EPOCHS, "seed": seed})
    train(TrainingRun(spec=_spec(data, settings), data=data, config=config, folder=folder, resume=is_there))
    return folder


def _accuracy(data: DataSet, case: Case, settings: Settings, source: Path | None) -> float:
    """Train, and return the accuracy on the held-out images after the last epoch, in per cent."""
    spec = _spec(data, settings)
    weights = "none" if source is None else str(source)
    config = configure("digits", "digits", {"epochs": case.epochs, "seed": case.seed, "weights": weights})
    start = None if source is None else load_starting_weights(weights, spec, seed=case.seed).tensors
    entries: list[checkpoint.Metrics] = []
    with tempfile.TemporaryDirectory() as place:
        run = TrainingRun(spec=spec, data=data, config=config, folder=Path(place) / "run", weights=start)
        train(run, on_epoch=entries.append)
    return 100 * float(entries[-1]["accuracy"])


def _section(found: dict[Case, tuple[float, float]], settings: Settings, options: argparse.Namespace) -> str:
    data = _only(load_data("digits", image_size=settings.image_size), _NEW)
    num_seeds = len(options.seeds)
    lines = [
        HEADING,
        "",
        f"Written by `make fine-tuning-table`: {settings.name} at {settings.image_size} pixels, first trained on the "
        f"digits 0 to 4 ({_SOURCE_EPOCHS} epochs), then on the digits 5 to 9, both with the recipe `digits`. The table "
        f"has the accuracy on the {len(data.held_out)} held-out images of the digits 5 to 9 after the last epoch, in "
        f"per cent: the mean of {num_seeds} seeds with its 95 % interval. Both columns of a row have the same seeds "
        "and images, so the interval of the difference is paired. Each number of epochs is a training of its own, "
        "with a schedule of that length.",
        "",
        "| images a class | epochs | fine-tuned | from scratch | difference |",
        "|---|---|---|---|---|",
    ]
    for num_images in options.images:
        for epochs in options.epochs:
            cases = [Case(num_images=num_images, epochs=epochs, seed=seed) for seed in options.seeds]
            tuned, scratch = zip(*(found[case] for case in cases), strict=True)
            differences = [one - other for one, other in zip(tuned, scratch, strict=True)]
            count = str(num_images) if num_images else f"all (about {round(len(data.train) / len(data.labels))})"
            cells = (count, str(epochs), _interval(tuned), _interval(scratch), _interval(differences, sign="+"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float], *, sign: str = "") -> str:
    """Return `mean ± half the 95 % interval` of Student's t."""
    mean = f"{statistics.mean(values):{sign}.1f}"
    if len(values) < 2:
        return mean
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.1f}"


if __name__ == "__main__":
    sys.exit(main())
