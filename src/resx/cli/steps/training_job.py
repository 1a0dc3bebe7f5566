"""One training, with what is said before, meanwhile and after it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.options.training import RunOptions
from resx.cli.output import Output
from resx.cli.views.training import show_run, show_training

if TYPE_CHECKING:
    from resx.data.dataset import DataSet
    from resx.training.config import TrainingConfig
    from resx.training.loop import OnEpoch, OnStep
    from resx.training.processes import Processes
    from resx.training.runs.run_origin import Origin
    from resx.training.starting_weights import StartingWeights
    from resx.zoo.spec import ModelSpec


def complete(recipe: str | None, changes: Mapping[str, object], begun: Origin | None) -> TrainingConfig:
    """Return all settings of a training.

    Args:
        recipe: as typed; None for the run's, or for the usual one of the data and the weights.
        changes: what was typed, and what computes.
        begun: the run that goes on, which keeps what it was begun with where nothing was typed.

    Raises:
        UsageError: there is no such recipe, or a value is out of its range.
    """
    from resx.training.recipes import configure, default_recipe

    if begun is None:
        data = str(changes["data"])
        return configure(data, recipe or default_recipe(data, str(changes["weights"])), changes)
    kept = begun.training.model_dump()
    if recipe is not None and recipe != begun.training.recipe:
        kept = {key: kept[key] for key in ("data", "skip_bad", "seed", "weights")}
    whole = kept | dict(changes)
    return configure(str(whole["data"]), recipe or begun.training.recipe, whole)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """What is trained, on what, how and where."""

    spec: ModelSpec
    data: DataSet
    config: TrainingConfig
    folder: Path
    options: RunOptions
    place: Processes
    begun: Origin | None
    """Of the run that is resumed."""
    start: StartingWeights | None
    """What a new run's weights are, where they are not random."""

    def run(self, out: Output) -> None:
        """Train and report; all but the first process do so silently."""
        if not self.place.is_first:
            self._train(lambda _done, _all: None, lambda _metrics: None)
            return
        self._say_first(out)
        metrics = self._train_and_tell(out)
        self._draw_curves(out, metrics)
        show_run(out, self.spec, self.data, self.config, self.folder, metrics)

    def _train(self, on_step: OnStep, on_epoch: OnEpoch) -> None:
        from resx.training import loop

        run = loop.TrainingRun(
            spec=self.spec,
            data=self.data,
            config=self.config,
            folder=self.folder,
            weights=None if self.start is None else self.start.tensors,
            resume=self.options.resume,
            ignore_times=self.options.ignore_times,
            extend=self.options.extend,
            force=self.options.force,
        )
        loop.train(run, processes=self.place, on_step=on_step, on_epoch=on_epoch)

    def _say_first(self, out: Output) -> None:
        from resx.files.locks import require_lockable
        from resx.files.mounts import CannotLock
        from resx.training.runs import checkpoint
        from resx.training.runs.run_origin import changes_of_computing

        for remark in self.data.remarks:
            out.note(remark)
        if self.start is not None:
            out.note(self.start.words)
        try:
            require_lockable(self.folder)
        except CannotLock as error:
            out.note(f"warning: {error}; training continues, but a second `train` could write to the same folder")
        if self.options.resume and not checkpoint.knows_data(self.folder):
            out.note(f"{self.folder}: started by an older resx, so its data cannot be compared")
        if self.begun and self.begun.spec.architecture == self.spec.architecture and (own := self._own_fields()):
            out.note(f"{self.folder}: keeps its own network: {self.spec.name} with {', '.join(own)}")
        if self.begun is not None and (changes := changes_of_computing(self.begun.training, self._config_here())):
            out.note(f"{self.folder}: {'; '.join(changes)}: results may differ by rounding from here on")

    def _draw_curves(self, out: Output, metrics: list[dict[str, Any]]) -> None:
        """Write the run's curves into its folder; without matplotlib, or room for them, say so."""
        from resx.analysis.training_curves import write_curves
        from resx.errors import MissingCapability, reason_of

        try:
            write_curves(metrics, self.config.best_by, self.spec.name, self.folder)
        except MissingCapability:
            out.note("No curves.png and curves.svg: matplotlib is not installed; pip install 'resx[analysis]'")
        except OSError as error:
            out.note(f"No curves.png and curves.svg: {reason_of(error)}")

    def _own_fields(self) -> list[str]:
        """Return the fields of the network's architecture that its name does not mean (any more)."""
        from resx.zoo.catalog import variant

        named = variant(self.spec.name).spec.architecture.model_dump()
        return [f"{field}={value}" for field, value in self.spec.architecture if named.get(field) != value]

    def _config_here(self) -> TrainingConfig:
        return self.config.model_copy(update={"num_processes": self.place.count})

    def _train_and_tell(self, out: Output) -> list[dict[str, Any]]:
        """Train, and return the metrics of every epoch."""
        from resx.training.devices import name_of
        from resx.training.runs.tensorboard import event_files

        metrics: list[dict[str, Any]] = []
        no_record = contextlib.nullcontext(lambda _entry: None)
        try:
            with (
                event_files(self.folder) if self.options.tensorboard else no_record as record,
                show_training(out, self._config_here(), name_of(self.place.device)) as (on_step, on_epoch),
            ):

                def remember(entry: dict[str, Any]) -> None:
                    metrics.append(entry)
                    record(entry)
                    on_epoch(entry)

                self._train(on_step, remember)
        except KeyboardInterrupt:
            out.note(f"stopped after {len(metrics)} of {self.config.epochs} epochs; continue with --resume")
            raise
        return metrics
