"""The run folder: weights, spec, metrics and what is needed to go on. safetensors only, no pickle.

    runs/NAME/
        model.safetensors    weights after the last finished epoch, torchvision's names
        best.safetensors     weights after the best epoch (the first of equals), as `best_by` says
        spec.json            the network
        training.json        the configuration
        data.jsonl.gz        what the data were (`resx.files.fingerprint`)
        metrics.jsonl        one object per finished epoch
        resume.safetensors   optimiser state, weights and the epoch they belong to (`training_state`)

With `ema`, model and best hold the moving average. Every file is replaced whole. `resume.safetensors` is written first
and holds the weights too, so a run killed between two writes resumes from one consistent epoch, and resuming writes the
others again. Files with weights say which network and settings they belong to, so files of two runs are never taken for
one run.
`--tensorboard` adds a folder `tensorboard/`, made anew from the metrics whenever the run goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resx.data.dataset import BadImages, DataSet
from resx.data.loading import load_data
from resx.errors import ResxError, UsageError, reason_of
from resx.files.disk_space import require_free_space
from resx.files.fingerprint import Fingerprint, compare
from resx.files.staging import write_atomic
from resx.training.config import HOW_COMPUTED, TrainingConfig
from resx.training.optimization.training_state import TrainingState, restore, tensors_of, weights_of
from resx.training.runs.run_metrics import METRICS, Metrics, best_of
from resx.training.runs.run_origin import CONFIG as CONFIG
from resx.training.runs.run_origin import WEIGHTS as WEIGHTS
from resx.training.runs.run_origin import Origin, metadata_of, origin_of, read_config, require_one_run, require_same
from resx.zoo.building import build_from_spec
from resx.zoo.spec import SPEC_FILE, ModelSpec, read_spec
from resx.zoo.weights.pretrained import load_weights, read_weights

BEST, RESUME = "best.safetensors", "resume.safetensors"
DATA = "data.jsonl.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """Where a run stands: finished epochs and their metrics."""

    epochs_done: int
    metrics: tuple[Metrics, ...]

    def is_best(self, config: TrainingConfig) -> bool:
        """Say whether the last epoch is better than every one before it."""
        return best_of(self.metrics, config.best_by) == len(self.metrics) - 1

    def is_over(self, config: TrainingConfig) -> bool:
        """Say whether training ends here: all epochs are done, or none was better for as long as patience lasts."""
        if self.epochs_done >= config.epochs:
            return True
        if not (config.patience and self.metrics):
            return False
        return len(self.metrics) - 1 - best_of(self.metrics, config.best_by) >= config.patience


def is_run(folder: Path) -> bool:
    """Say whether a folder holds a run, finished or not: it has a spec."""
    return (folder / SPEC_FILE).is_file()


def load_run(folder: Path) -> tuple[nn.Module, ModelSpec]:
    """Build a run's network with its trained weights, in evaluation mode.

    Raises:
        UsageError: the folder has no run, or its files are damaged or do not belong together.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        read_spec(folder / SPEC_FILE)  # says what is wrong with what is no run
        raise UsageError(
            f"{weights}: no such file; the run has not finished its first epoch yet; continue the training"
        )
    origin = origin_of(weights)
    state, spec = read_weights(weights), read_spec(folder / SPEC_FILE)
    for found in (origin, origin_of(weights)):  # another run may have begun here meanwhile
        if found is not None:
            require_one_run(weights, found, spec)
    model = build_from_spec(spec, seed=0)
    load_weights(model, state, source=str(weights))
    return model.eval(), spec


def begin_run(
    folder: Path,
    spec: ModelSpec,
    config: TrainingConfig,
    data: Fingerprint | None = None,
    state: TrainingState | None = None,
) -> None:
    """Make the run folder.

    Args:
        folder: of the run.
        spec: the network.
        config: the settings.
        data: what the data are.
        state: what the first epoch begins with, where the seed does not say it.

    Raises:
        ResxError: the disk has no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_bytes = 4 * sum(parameter.numel() for parameter in _on_meta(spec).parameters())
    num_states = 1 + (2 if config.optimizer == "lamb" else 1) + bool(config.ema)
    require_free_space(folder, (3 + 2 * num_states) * num_bytes)  # last, best; the state to resume, staged; some room
    for left in (METRICS, RESUME, WEIGHTS, BEST, DATA):
        (folder / left).unlink(missing_ok=True)
    if data is not None:
        _write(folder / DATA, data.packed, kept=0)
    write_config(folder, config)
    if state is not None:
        _write_state(folder, Origin(spec=spec, training=config), state, RunProgress(epochs_done=0, metrics=()))
    # The spec makes it a run, so it comes last: a kill before it leaves nothing that has to be resumed.
    _write(folder / SPEC_FILE, spec.model_dump_json(indent=2) + "\n", kept=0)


def write_config(folder: Path, config: TrainingConfig, *, kept: int = 0) -> None:
    """Write the configuration of a run of which so many epochs are kept.

    Raises:
        ResxError: it cannot be written.
    """
    _write(folder / CONFIG, config.model_dump_json(indent=2) + "\n", kept=kept)


def write_run(folder: Path, model: nn.Module, spec: ModelSpec, config: TrainingConfig) -> None:
    """Write a run that was made of another one, not trained: weights, spec, and the other's configuration."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    origin = Origin(spec=spec, training=config)
    write_atomic(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    write_atomic(folder / SPEC_FILE, spec.model_dump_json(indent=2) + "\n")
    write_atomic(folder / WEIGHTS, save(weights_of(model), metadata=metadata_of(origin)))


def save_epoch(folder: Path, origin: Origin, state: TrainingState, progress: RunProgress) -> None:
    """Store the state after a finished epoch.

    Raises:
        ResxError: a file cannot be written, or those in the folder are of another run by now.
    """
    try:
        require_one_run(folder / RESUME, origin, read_spec(folder / SPEC_FILE))
    except UsageError as error:
        raise ResxError(f"{folder}: changed during training, so nothing more is written: {error}") from error
    _write_state(folder, origin, state, progress)
    publish(folder, origin, state.published, progress)


def _write_state(folder: Path, origin: Origin, state: TrainingState, progress: RunProgress) -> None:
    from safetensors.torch import save

    metadata = metadata_of(origin) | {
        "epochs_done": str(progress.epochs_done),
        "metrics": _lines(progress),
        "scaler": json.dumps(state.scaler.state_dict()),
    }
    _write(folder / RESUME, save(tensors_of(state), metadata=metadata), kept=max(0, progress.epochs_done - 1))


def publish(folder: Path, origin: Origin, model: nn.Module, progress: RunProgress) -> None:
    """Write the files that others read: the last weights, the best if they are these, and the metrics.

    Raises:
        ResxError: one cannot be written.
    """
    from safetensors.torch import save

    if not progress.metrics:
        return
    weights = save(weights_of(model), metadata=metadata_of(origin))
    _write(folder / WEIGHTS, weights, kept=progress.epochs_done)
    if progress.is_best(origin.training):
        _write(folder / BEST, weights, kept=progress.epochs_done)
    _write(folder / METRICS, _lines(progress), kept=progress.epochs_done)


def knows_data(folder: Path) -> bool:
    """Say whether a run says what its data were; those that an older resx began do not."""
    return (folder / DATA).is_file()


def require_same_data(folder: Path, data: DataSet, *, ignore_times: bool = False) -> None:
    """Check that the data are those that a run was begun with.

    Args:
        folder: of the run.
        data: that are to be trained on.
        ignore_times: take files for unchanged if only their modification times differ.

    Raises:
        UsageError: they changed; the message says in what.
    """
    if data.fingerprint is None or not knows_data(folder):
        return
    difference = compare(folder / DATA, data.fingerprint, ignore_times=ignore_times)
    if difference:
        remedy = "restore the data, or train again with --force"
        if difference.only_times:
            remedy += "; if the contents are the same, as after a copy, add --ignore-times"
        raise UsageError(f"{folder}: its data changed since the run started: {difference.words}; {remedy}")


def resume_run(folder: Path, state: TrainingState, origin: Origin, *, extend: bool = False) -> RunProgress:
    """Bring model, optimiser and scaler to where the run stopped, and return how far that was.

    A run that `resx shrink` made, and that was not trained yet, begins at its weights.

    Args:
        folder: the run's.
        state: changed in place.
        origin: what the run was begun with.
        extend: its number of epochs may be another one, if so many are not finished yet.

    Raises:
        UsageError: the run was begun with another network or configuration (the message says in what they
            differ), or its files are damaged.
    """
    from safetensors import SafetensorError, safe_open

    config = origin.training
    begun = read_config(folder).model_copy(update=config.model_dump(include={*HOW_COMPUTED}))
    require_same(folder, "another network", read_spec(folder / SPEC_FILE), origin.spec)
    if extend or begun.model_copy(update={"epochs": config.epochs}) != config:
        require_same(folder, "other settings", begun, config, but=("epochs",) if extend else ())
    elif begun != config:
        raise UsageError(
            f"{folder}: started with other settings: epochs was {begun.epochs}, is {config.epochs}; use the same "
            f"number, --extend to train until epoch {config.epochs}, or --force"
        )
    path = folder / RESUME
    if not path.exists():
        return _at_the_start(folder, state.model, config)
    found = origin_of(path)
    if found is not None:
        require_one_run(path, found, origin.spec)
    try:
        with safe_open(path, framework="pt") as file:
            stored: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = file.metadata() or {}
        progress = _progress_of(metadata)
        scaler = json.loads(metadata["scaler"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); train again with --force") from error
    if progress.epochs_done > config.epochs:
        raise UsageError(f"--epochs {config.epochs}: {progress.epochs_done} are finished already; choose more epochs")
    restore(state, stored, source=str(path))
    if scaler:
        state.scaler.load_state_dict(scaler)
    return progress


def _at_the_start(folder: Path, model: nn.Module, config: TrainingConfig) -> RunProgress:
    """Give the model the weights that the run begins with, if it has any: `resx shrink` made it."""
    has_weights = (folder / WEIGHTS).is_file()
    if (folder / METRICS).exists() or (config.weights != "none" and not has_weights):
        raise UsageError(f"{folder / RESUME}: no such file, so the run cannot be resumed; use --force to start over")
    if has_weights:
        trained, _ = load_run(folder)
        model.load_state_dict(trained.state_dict())
    return RunProgress(epochs_done=0, metrics=())


def _progress_of(metadata: dict[str, str]) -> RunProgress:
    """Read what `save_epoch` wrote; KeyError or ValueError if it did not write this."""
    metrics = tuple(json.loads(line) for line in metadata["metrics"].splitlines())
    return RunProgress(epochs_done=int(metadata["epochs_done"]), metrics=metrics)


def load_run_data(folder: Path) -> DataSet:
    """Load the data set that a run was trained on, at the size it was trained at.

    Raises:
        UsageError: the folder has no run, or the data are no longer where they were.
    """
    config, spec = read_config(folder), read_spec(folder / SPEC_FILE)
    bad_images: BadImages = "skip" if config.skip_bad else "unchecked"  # they were checked when training began
    return load_data(config.data, image_size=spec.image_size, bad_images=bad_images)


def _write(path: Path, data: bytes | str, *, kept: int) -> None:
    """Replace a file of a run in training, or say what is kept of the run; `kept`: the last epoch that is."""
    try:
        write_atomic(path, data)
    except OSError as error:
        reason = reason_of(error)
        what = f"epoch {kept} is kept" if kept else "no epoch is finished yet"
        raise ResxError(
            f"{path}: {reason}; {what}: free some space or make the folder writable, then --resume"
        ) from error


def _lines(progress: RunProgress) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in progress.metrics)


def _on_meta(spec: ModelSpec) -> nn.Module:
    with torch.device("meta"):
        return build_from_spec(spec, seed=None)
