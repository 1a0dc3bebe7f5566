"""The runs in a folder, side by side: what was trained on what, how far it came, and which cannot be read. No torch."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from resx.errors import ResxError, UsageError, reason_of
from resx.training.config import BestBy
from resx.training.runs.run_metrics import METRICS, best_of, read_metrics
from resx.training.runs.run_origin import CONFIG, WEIGHTS, read_config
from resx.values import FrozenModel
from resx.zoo.spec import SPEC_FILE, read_spec

_SIGNS = (SPEC_FILE, CONFIG, METRICS, WEIGHTS)
"""A folder with one of these is a run, whole or broken."""
Order: TypeAlias = Literal["date", "accuracy", "epochs", "time", "model", "data", "name"]
ORDERS: tuple[Order, ...] = ("date", "accuracy", "epochs", "time", "model", "data", "name")


class Epoch(BaseModel):
    """What a comparison needs of an epoch's metrics."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    epoch: int = Field(ge=1)
    step: int = Field(ge=0)
    loss: float
    accuracy: float = Field(ge=0, le=1)
    """Share of the held-out images."""
    validation_accuracy: float | None = Field(default=None, ge=0, le=1)
    held_out_loss: float | None = None
    validation_loss: float | None = None
    balanced_accuracy: float | None = Field(default=None, ge=0, le=1)
    validation_balanced_accuracy: float | None = Field(default=None, ge=0, le=1)
    images_per_s: float | None = Field(default=None, gt=0)


class ListedRun(FrozenModel):
    """A run."""

    folder: str
    model: str
    data: str
    recipe: str
    epochs_done: int
    epochs: int
    """That were asked for."""
    best_accuracy: float | None
    """Share of the held-out images after the best epoch; None before the first."""
    best_epoch: int | None
    best_chosen_on: Literal["validation", "held-out"] | None
    training_s: float | None
    """Of the finished epochs, without their evaluation; None where the metrics do not say."""
    date: str
    """UTC, ISO 8601: when the last epoch ended, or the run was made."""


class BrokenRun(FrozenModel):
    """A folder of a run that cannot be read."""

    folder: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRuns:
    """What lies in a folder."""

    runs: tuple[ListedRun, ...]
    epochs: dict[str, tuple[Epoch, ...]]
    """By the runs' folders."""
    broken: tuple[BrokenRun, ...]

    @property
    def best(self) -> ListedRun | None:
        """The most accurate run, of equals the newest; None where none has finished an epoch."""
        trained = [run for run in self.runs if run.best_accuracy is not None]
        return max(trained, key=lambda run: (run.best_accuracy or 0.0, run.date), default=None)


def list_runs(folder: Path, order: Order) -> FoundRuns:
    """Return the run that a folder is, or the runs directly in it; those that cannot be read with the reason.

    Raises:
        UsageError: there is no such folder.
    """
    runs: list[ListedRun] = []
    epochs: dict[str, tuple[Epoch, ...]] = {}
    broken: list[BrokenRun] = []
    for path in _find(folder):
        try:
            run, found = _read(path)
        except ResxError as error:
            broken.append(BrokenRun(folder=str(path), reason=str(error)))
        except OSError as error:
            broken.append(BrokenRun(folder=str(path), reason=f"cannot be read ({reason_of(error)})"))
        else:
            runs.append(run)
            epochs[run.folder] = found
    return FoundRuns(runs=tuple(_sorted(runs, order)), epochs=epochs, broken=tuple(broken))


def _find(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; name the folder that `resx train -o` wrote runs into")
    if _is_run(folder):
        yield folder
        return
    try:
        below = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: {reason_of(error)}; name another folder") from error
    yield from (path for path in below if not path.name.startswith(".") and path.is_dir() and _is_run(path))


def _is_run(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in _SIGNS)
    except OSError:
        return True  # `_read` says why it cannot be looked into


def _read(folder: Path) -> tuple[ListedRun, tuple[Epoch, ...]]:
    spec, config = read_spec(folder / SPEC_FILE), read_config(folder)
    epochs = _epochs(folder)
    if epochs and not (folder / WEIGHTS).is_file():
        raise UsageError(f"{folder / WEIGHTS}: no such file; copy the run again, or continue it with --resume")
    noted = folder / METRICS if epochs else folder / SPEC_FILE
    date = datetime.datetime.fromtimestamp(noted.stat().st_mtime, datetime.UTC)
    best = _best(folder, epochs, config.best_by)
    run = ListedRun(
        folder=str(folder),
        model=spec.name,
        data=config.data,
        recipe=config.recipe,
        epochs_done=len(epochs),
        epochs=config.epochs,
        best_accuracy=best.accuracy if best else None,
        best_epoch=best.epoch if best else None,
        best_chosen_on=None if best is None else "held-out" if best.validation_accuracy is None else "validation",
        training_s=_training_s(epochs, config.batch_size),
        date=date.isoformat(timespec="seconds"),
    )
    return run, epochs


def _epochs(folder: Path) -> tuple[Epoch, ...]:
    try:
        return tuple(Epoch.model_validate(entry) for entry in read_metrics(folder))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        what = ".".join(map(str, first["loc"]))
        raise UsageError(f"{folder / METRICS}: {what}: {first['msg'].lower()}; copy the run again") from error


def _best(folder: Path, epochs: Sequence[Epoch], best_by: BestBy) -> Epoch | None:
    try:
        return epochs[best_of([one.model_dump(exclude_none=True) for one in epochs], best_by)] if epochs else None
    except KeyError as error:
        raise UsageError(f"{folder / METRICS}: an epoch has no {error.args[0]}; copy the run again") from error


def _training_s(epochs: Sequence[Epoch], batch_size: int) -> float | None:
    """Return the time of all steps, of which an epoch's rate is the inverse."""
    seconds = 0.0
    for before, one in itertools.pairwise([None, *epochs]):
        assert one is not None
        if one.images_per_s is None:
            return None
        seconds += (one.step - (before.step if before else 0)) * batch_size / one.images_per_s
    return seconds if epochs else None


def _sorted(runs: Sequence[ListedRun], order: Order) -> list[ListedRun]:
    """Return the newest, the most accurate, the longest or the quickest first; words in the order of the alphabet."""
    newest_first = sorted(runs, key=lambda run: run.date, reverse=True)
    keys = {
        "date": lambda _run: 0.0,
        "accuracy": lambda run: -1.0 if run.best_accuracy is None else -run.best_accuracy - 1,
        "epochs": lambda run: -run.epochs_done,
        "time": lambda run: float("inf") if run.training_s is None else run.training_s,
    }
    if order in keys:
        return sorted(newest_first, key=keys[order])
    words = {"model": lambda run: run.model, "data": lambda run: run.data, "name": lambda run: run.folder}
    return sorted(newest_first, key=words[order])
