"""Training: a run's folder with weights, spec and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resx.gpus import Wish
    from resx.training.config import Augmentation, BestBy, ClassWeights, Schedule
    from resx.training.devices import PrecisionWish
    from resx.zoo.spec import SurvivalSchedule


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
    weights: Path | str = "none",
    freeze: str = "",
    layer_decay: float | None = None,
    recipe: str = "",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    validation: float | None = None,
    survival: float | None = None,
    survival_schedule: SurvivalSchedule | None = None,
    settings: Sequence[str] = (),
    image_size: int | None = None,
    schedule: Schedule | None = None,
    label_smoothing: float | None = None,
    clip_norm: float | None = None,
    augment: Augmentation | None = None,
    random_erasing: float | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    ema: float | None = None,
    class_weights: ClassWeights | None = None,
    best_by: BestBy | None = None,
    patience: int | None = None,
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
        weights: what to start from: `none` (random), `imagenet`, a run's folder or a file. Other classes than the
            data's get a new last layer.
        freeze: the last stage that is not trained, such as `layer2`; `all` is everything but the last layer.
        layer_decay: learning rate of each stage as a share of the next stage's.
        recipe: the paper whose settings are taken. Default: the data's, as the command's help says.
        epochs: passes over the training data. None, here and below: the recipe's.
        batch_size: images per step.
        learning_rate: at its peak.
        weight_decay: 0 or more.
        validation: share of the training images on which the best epoch is chosen.
        survival: p_L in (0, 1], the probability that the last block survives a step. None: that of the run whose
            weights are taken, or the recipe's.
        survival_schedule: `linear` or `uniform`. None: as the run whose weights are taken, or linear.
        settings: `FIELD=VALUE` of the variant's architecture.
        image_size: pixels. None: the data's own.
        schedule: of the learning rate, `cosine` or `step`.
        label_smoothing: in [0, 1).
        clip_norm: largest norm of the gradients; 0: any.
        augment: `randaugment`, `trivialaugment` or `none`.
        random_erasing: probability to erase a rectangle of an image.
        mixup: alpha of the share by which pairs of images are mixed; 0: off.
        cutmix: alpha of the part of an image that is another's; 0: off.
        ema: decay per step of the moving average of the weights, which is published; 0: off.
        class_weights: `balanced` or `none`.
        best_by: `accuracy`, `loss` or `balanced-accuracy`.
        patience: epochs without a better one after which training stops; 0: never.
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
    from resx.training.optimization.stages import require_stage
    from resx.training.processes import join_processes
    from resx.training.recipes import configure, default_recipe, recipe_named
    from resx.training.runs.run_metrics import best_of
    from resx.training.starting_network import find_starting_network
    from resx.zoo.catalog import variant
    from resx.zoo.spec import SURVIVAL_SCHEDULES

    named = variant(name).spec
    if any(setting.partition("=")[0] == "classes" for setting in settings):
        raise UsageError(f"settings: the data set {data} has its own classes; remove classes")
    computer = choose_device(choose("device", device, WISHES))
    recipe = recipe or default_recipe(data, str(weights))
    folder = Path(output or Path("runs") / name)
    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "validation": validation,
        "weights": str(weights),
        "freeze": freeze,
        "layer_decay": layer_decay,
        "schedule": schedule,
        "label_smoothing": label_smoothing,
        "clip_norm": clip_norm,
        "augment": augment,
        "random_erasing": random_erasing,
        "mixup": mixup,
        "cutmix": cutmix,
        "ema": ema,
        "class_weights": class_weights,
        "best_by": best_by,
        "patience": patience,
        "device": computer,
        "precision": choose_precision(choose("precision", precision, PRECISION_WISHES), computer),
        "skip_bad": skip_bad,
        "seed": seed,
    }
    config = configure(data, recipe, {key: value for key, value in changes.items() if value is not None})
    source = find_starting_network(named, config.weights, config.freeze)
    network = named.with_settings(list(settings)) if settings or source.before is None else source.before
    metrics: list[Mapping[str, Any]] = []

    def remember(entry: Mapping[str, Any]) -> None:
        metrics.append(entry)
        on_epoch(entry)

    with join_processes(config.device) as place:
        size = source.image_size(image_size, data)
        images = load_data(data, image_size=size, bad_images="skip" if skip_bad else "refuse")
        spec = source.spec(
            network,
            images,
            survival=survival,
            usual_survival=recipe_named(recipe).survival,
            schedule=(
                choose("survival_schedule", survival_schedule, SURVIVAL_SCHEDULES) if survival_schedule else None
            ),
        )
        require_stage(spec, config.freeze)
        start = source.load(spec, seed=seed, entry="")
        run = loop.TrainingRun(
            spec=spec,
            data=images,
            config=config,
            folder=folder,
            weights=None if start is None else start.tensors,
            force=force,
        )
        loop.train(run, processes=place, on_epoch=remember)
    best, last = metrics[best_of([dict(entry) for entry in metrics], config.best_by)], metrics[-1]
    return Trained(
        folder=folder,
        model=name,
        epochs=int(last["epoch"]),
        accuracy=float(best["accuracy"]),
        best_epoch=int(best["epoch"]),
        last_accuracy=float(last["accuracy"]),
        metrics=tuple(metrics),
    )
