"""Train and measure what the file of rows does not hold yet, seed by seed."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmarks.experiments.experiment import Experiment
from benchmarks.experiments.rows import Row, RowsFile
from benchmarks.experiments.training import Setting, train_network


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be measured."""

    experiments: Sequence[Experiment]
    num_seeds: int | None = None
    """Of every setting; the experiment's own number if there is none."""
    only: Sequence[str] = ()
    """Parts of keys, all of which a row's key has to hold."""


def trials(plan: Plan) -> Iterator[tuple[Experiment, Setting, Row]]:
    """Yield what a plan measures, each with its row as yet empty: every variant of a seed before the next seed."""
    for experiment in plan.experiments:
        counts = {setting: plan.num_seeds or experiment.num_seeds(setting) for setting in experiment.settings}
        for seed in range(max(counts.values())):
            for setting in (setting for setting, count in counts.items() if seed < count):
                row = Row(
                    experiment=experiment.name,
                    network=setting.title,
                    data=setting.data_title,
                    recipe=setting.recipe_title,
                    epochs=setting.epochs,
                    seed=seed,
                )
                if all(text in row.key for text in plan.only):
                    yield experiment, setting, row


def run(plan: Plan, file: RowsFile, runs: Path, jobs: int = 1) -> int:
    """Measure what is missing and keep each row as soon as it is known; return how many were measured.

    Args:
        plan: what to measure.
        file: of the rows.
        runs: folder of the trained networks.
        jobs: processes; with several, those of one experiment run side by side.
    """
    done = 0
    for experiment in plan.experiments:
        one = Plan(experiments=[experiment], num_seeds=plan.num_seeds, only=plan.only)
        missing = [trial for trial in trials(one) if trial[2].key not in file.read()]
        for measured in _measure_all(missing, runs, jobs):
            file.add(measured)
            done += 1
            print(f"{measured.key}: {_told(measured)}", file=sys.stderr, flush=True)
    return done


def _measure_all(missing: Sequence[tuple[Experiment, Setting, Row]], runs: Path, jobs: int) -> Iterator[Row]:
    """Yield rows as they are measured."""
    if jobs == 1 or len(missing) < 2:
        yield from (measure(*trial, runs) for trial in missing)
        return
    # Not fork: torch has threads by now.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(measure, *trial, runs) for trial in missing]
        try:
            yield from (future.result() for future in as_completed(waiting))
        finally:
            for future in waiting:
                future.cancel()


def measure(experiment: Experiment, setting: Setting, row: Row, runs: Path) -> Row:
    """Return a row with everything that its experiment measures."""
    trained = train_network(setting, row.seed, runs)
    if trained is None:
        return row
    changes: dict[str, object] = {
        "loss": round(trained.loss, 5),
        "training_error": round(trained.training_error, 6),
        "accuracy": round(trained.accuracy, 6),
        "seconds": trained.seconds,
    }
    if experiment.analyze is not None:
        found = experiment.analyze(trained, row.seed)
        changes["values"] = {name: float(f"{number:.6g}") for name, number in found.values.items()}
        changes["series"] = {
            name: tuple(float(f"{number:.5g}") for number in numbers) for name, numbers in found.series.items()
        }
    return row.model_copy(update=changes)


def _told(row: Row) -> str:
    if row.loss is None or row.accuracy is None:
        return "diverged"
    return f"loss {row.loss:.3f}, accuracy {row.accuracy:.2%}, {row.seconds:.0f} s"
