"""A network with fewer blocks as a run like any other: it is exported, verified, trained on and shrunk as every run is.

DIR/spec.json            names the blocks that are gone
DIR/model.safetensors    the weights of those that stay, under the names that they had
DIR/training.json        what the whole network was trained with; with fine-tuning, what that was done with
DIR/shrink.json          how it came to be
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from resx.analysis.shrink.search import SearchOptions, ShrunkenNetwork, Sized
from resx.data.dataset import DataSet
from resx.errors import ResxError
from resx.files.staging import publish_folder, remove_abandoned, staging_folder, write_atomic
from resx.training.config import TrainingConfig
from resx.training.loop import OnStep, TrainingRun, train
from resx.training.optimization.training_state import TrainingState
from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import RunProgress
from resx.training.runs.run_metrics import Metrics
from resx.training.runs.run_origin import Origin, read_config
from resx.values import FrozenModel

RECORD = "shrink.json"
_FINE_TUNING_RATE = 0.1
"""Of the run's own peak learning rate."""


class ShrinkRecord(FrozenModel):
    """How a run with fewer blocks came to be."""

    source: str
    """The run that it was made of, as the user named it."""
    whole: ShrunkenNetwork
    """That run."""
    member: ShrunkenNetwork
    """This one, before fine-tuning."""
    search: SearchOptions
    finetune_epochs: int
    accuracy: float
    """Held-out, at the end."""


def publish_run(
    folder: Path,
    sized: Sized,
    whole: ShrunkenNetwork,
    source: Path,
    data: DataSet,
    *,
    search: SearchOptions,
    finetune_epochs: int,
    on_step: OnStep = lambda _done, _all: None,
) -> ShrinkRecord:
    """Write a network as a run, fine-tuned first if asked to, and return its record; the folder appears whole.

    Raises:
        UsageError: the folder exists.
        ResxError: fine-tuning diverged.
    """
    config = read_config(source)
    accuracy = sized.member.accuracy
    remove_abandoned(folder.absolute().parent)
    with _nothing_kept(folder), staging_folder(folder.absolute().parent) as staged:
        run = staged / "run"  # a folder of its own: staging holds the lock that training takes
        run.mkdir()
        if finetune_epochs:
            accuracy = _fine_tuned(run, sized, data, config, finetune_epochs, on_step)
        else:
            checkpoint.write_run(run, sized.model, sized.spec, config)
        record = ShrinkRecord(
            source=str(source),
            whole=whole,
            member=sized.member,
            search=search,
            finetune_epochs=finetune_epochs,
            accuracy=accuracy,
        )
        write_atomic(run / RECORD, record.model_dump_json(indent=2) + "\n")
        publish_folder(run, folder.absolute())
    return record


@contextlib.contextmanager
def _nothing_kept(folder: Path) -> Iterator[None]:
    """Say of a disk that is full that the new run is not there; what training says is true of runs that stay."""
    try:
        yield
    except (ResxError, OSError) as error:
        cause = error.__cause__ if isinstance(error, ResxError) else error
        if not isinstance(cause, OSError):
            raise
        reason = (cause.strerror or str(cause)).lower()
        raise ResxError(
            f"{folder}: {reason}; nothing was written: free some space, then run resx shrink again"
        ) from error


def _fine_tuned(
    folder: Path, sized: Sized, data: DataSet, config: TrainingConfig, epochs: int, on_step: OnStep
) -> float:
    """Train the network on, as a run that was interrupted before its first epoch; return its accuracy."""
    slowly = {"epochs": epochs, "learning_rate": _FINE_TUNING_RATE * config.learning_rate, "warmup": "none"}
    whole = {"freeze": "", "patience": 0}
    on_cpu = {"device": "cpu", "num_processes": 1, "channels_last": False, "compiled": False}
    gentle = config.model_copy(update=slowly | whole | on_cpu)
    checkpoint.begin_run(folder, sized.spec, gentle)
    state = TrainingState(
        model=sized.model,
        optimizer=torch.optim.SGD(sized.model.parameters(), lr=gentle.learning_rate),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    origin = Origin(spec=sized.spec, training=gentle)
    checkpoint.save_epoch(folder, origin, state, RunProgress(epochs_done=0, metrics=()))
    entries: list[Metrics] = []
    train(
        TrainingRun(spec=sized.spec, data=data, config=gentle, folder=folder, resume=True),
        on_step=on_step,
        on_epoch=entries.append,
    )
    return float(entries[-1]["accuracy"])
