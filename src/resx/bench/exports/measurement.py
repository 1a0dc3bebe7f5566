"""Measure the files of several forms in rounds: every form once in each, so that a machine that slows down slows all.

A form's file runs as the embedded server would open it, with one instance, in a process of its own
(`bench.in_process`): once with single images for the latency, once with batches for the throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resx.bench.exports.comparison import FormSpeed, spread_of
from resx.bench.in_process import InProcessRun, measure_in_process
from resx.bench.load.payloads import canaries
from resx.card.card import Card
from resx.errors import ResxError


@dataclass(frozen=True, kw_only=True, slots=True)
class FormFile:
    """A form that was exported."""

    name: str
    card: Card
    folder: Path
    """Of the version, below its model's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuringPlan:
    """How long and how often."""

    rounds: int
    duration_s: float
    batch_size: int
    """For throughput, in files that take several sizes."""


@dataclass(kw_only=True, slots=True)
class _Runs:
    single: list[InProcessRun] = field(default_factory=list)
    batch: list[InProcessRun] = field(default_factory=list)
    failed: str = ""


def measure_forms(
    files: Sequence[FormFile], plan: MeasuringPlan, on_progress: Callable[[int, int], None]
) -> list[FormSpeed | str]:
    """Return what each file did, or why it could not be measured, which lets the others go on.

    Args:
        files: to measure, in the order of each round; every second round has the opposite one.
        plan: how long and how often.
        on_progress: told how many measurements are done, and of how many.
    """
    runs = [_Runs() for _ in files]
    total, done = 2 * plan.rounds * len(files), 0
    on_progress(0, total)
    for number in range(plan.rounds):
        pairs = list(zip(files, runs, strict=True))
        for file, found in pairs if number % 2 == 0 else reversed(pairs):
            if not found.failed:
                _measure(file, plan, found)
            done += 2
            on_progress(done, total)
    return [found.failed or _speed(found) for found in runs]


def _measure(file: FormFile, plan: MeasuringPlan, found: _Runs) -> None:
    fixed = file.card.signature.batch
    try:
        found.single.append(_run(file, fixed or 1, plan.duration_s))
        found.batch.append(_run(file, fixed or min(plan.batch_size, file.card.max_batch_size), plan.duration_s))
    except ResxError as error:
        found.failed = str(error)


def _run(file: FormFile, batch_size: int, duration_s: float) -> InProcessRun:
    return measure_in_process(
        file.folder,
        file.card,
        batch_size,
        instances=1,
        threads=0,
        duration_s=duration_s,
        tensors=canaries(file.card, batch_size).tensors,
    )


def _speed(found: _Runs) -> FormSpeed:
    single, batch = found.single[0], found.batch[0]
    memory = [run.memory_bytes for run in found.batch if run.memory_bytes is not None]
    return FormSpeed(
        p50_ms=spread_of([run.p50_ms for run in found.single]),
        single_batch=single.batch_size,
        images_per_s=spread_of([run.images_per_s for run in found.batch]),
        batch_size=batch.batch_size,
        threads=single.threads,
        memory_bytes=max(memory, default=None),
    )
