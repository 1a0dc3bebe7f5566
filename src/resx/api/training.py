"""Training: a run's folder with weights, spec and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resx.gpus import Wish
    from resx.training.devices import PrecisionWish
    from resx.zoo.spec import ModelSpec, SurvivalSchedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished run."""

    folder: Path
    """The source of `resx.export` and of every command that takes a run."""
    model: str
    """The variant."""
    epochs: int
    accuracy: float
    """Of the best epoch, whose weights the run holds: share of the held-out images that are answered right."""
    best_epoch: int
    """Counted from 1."""
    last_accuracy: float
    metrics: tuple[Mapping[str, Any], ...]
    """Of each epoch: epoch, step, loss, learning_rate, images_per_s, accuracy and so on, as in metrics.jsonl."""


def train(
    name: str,
    *,
    data: str = "digits",
    output: Path | str = "",
    recipe: str = "",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    validation: float | None = None,
    survival: float | None = None,
    survival_schedule: SurvivalSchedule = "linear",
    settings: Sequence[str] = (),
    image_size: int | None = None,
    label_smoothing: float = 0.0,
    clip_norm: float = 0.0,
    device: Wish = "auto",
    precision: PrecisionWish = "fp32",
    skip_bad: bool = False,
    force: bool = False,
    seed: int = 0,
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda _metrics: None,
) -> Trained:
    """Train a variant, as `resx train` does. A run that was interrupted goes on with `resx train --resume`.

    Args:
        name: one of `list_models()`.
        data: `digits`, `mnist5k`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`.
        output: the run's folder. Default: `runs/NAME`.
        recipe: the paper whose settings are taken. Default: the data's, as the command's help says.
        epochs: passes over the training data. None, here and below: the recipe's.
        batch_size: images per step.
        learning_rate: at its peak.
        weight_decay: 0 or more.
        validation: share of the training images on which the best epoch is chosen.
        survival: p_L in (0, 1], the probability that the last block survives a step.
        survival_schedule: `linear` or `uniform`.
        settings: `FIELD=VALUE` of the variant's architecture.
        image_size: pixels. None: the data's own.
        label_smoothing: in [0, 1).
        clip_norm: largest norm of the gradients; 0: any.
        device: `auto`, `cpu` or `gpu`.
        precision: of the forward pass: `auto`, `fp32`, `bf16` or `fp16`.
        skip_bad: train without the images of a folder that cannot be read.
        force: delete an earlier run in the folder.
        seed: of weights, order, augmentation and dropped blocks.
        on_epoch: called with the metrics of each epoch when it ends.

    Raises:
        UsageError: a name, a value or the data cannot be used, or the folder has a run.
        MissingCapability: the device, or a package that carries the data, is missing.
        ResxError: training diverged.
    """
    from resx.data.loading import load_data
    from resx.errors import UsageError
    from resx.gpus import WISHES
    from resx.names import choose
    from resx.training import loop
    from resx.training.devices import PRECISION_WISHES, choose_device, choose_precision
    from resx.training.processes import join_processes
    from resx.training.recipes import configure, default_recipe, recipe_named
    from resx.training.run_metrics import best_of
    from resx.zoo.catalog import variant
    from resx.zoo.spec import SURVIVAL_SCHEDULES

    network = variant(name).spec.with_settings(list(settings))
    if any(setting.partition("=")[0] == "classes" for setting in settings):
        raise UsageError(f"settings: the data set {data} has its own classes; remove classes")
    computer = choose_device(choose("device", device, WISHES))
    recipe = recipe or default_recipe(data)
    folder = Path(output or Path("runs") / name)
    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "validation": validation,
        "label_smoothing": label_smoothing,
        "clip_norm": clip_norm,
        "device": computer,
        "precision": choose_precision(choose("precision", precision, PRECISION_WISHES), computer),
        "skip_bad": skip_bad,
        "seed": seed,
    }
    config = configure(data, recipe, {key: value for key, value in changes.items() if value is not None})
    metrics: list[Mapping[str, Any]] = []

    def remember(entry: Mapping[str, Any]) -> None:
        metrics.append(entry)
        on_epoch(entry)

    with join_processes(config.device) as place:
        images = load_data(data, image_size=image_size, bad_images="skip" if skip_bad else "refuse")
        spec: ModelSpec = network.with_changes(
            classes=len(images.labels),
            labels=images.labels,
            image=images.image,
            survival=recipe_named(recipe).survival if survival is None else survival,
            survival_schedule=choose("survival_schedule", survival_schedule, SURVIVAL_SCHEDULES),
        )
        run = loop.TrainingRun(spec=spec, data=images, config=config, folder=folder, force=force)
        loop.train(run, processes=place, on_epoch=remember)
    best, last = metrics[best_of([dict(entry) for entry in metrics])], metrics[-1]
    return Trained(
        folder=folder,
        model=name,
        epochs=int(last["epoch"]),
        accuracy=float(best["accuracy"]),
        best_epoch=int(best["epoch"]),
        last_accuracy=float(last["accuracy"]),
        metrics=tuple(metrics),
    )
