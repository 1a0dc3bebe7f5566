"""`resx train`."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options.shared import Json, MaxFileMib, MaxMegapixels, Quiet, Seed, Settings, choose, finite
from resx.cli.output import Output, print_lines, stderr_console
from resx.errors import UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from resx.data.dataset import DataSet
    from resx.training.config import TrainingConfig
    from resx.training.loop import OnEpoch, OnStep
    from resx.training.processes import Processes
    from resx.training.run_origin import Origin
    from resx.zoo.spec import ModelSpec


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("train")(train)


def train(
    name: Annotated[str, typer.Argument(help="A variant: see `resx models`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")],
    data: Annotated[str, typer.Option(help="digits, cifar10:DIR, cifar100:DIR or folder:DIR.")] = "digits",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits, he2015-cifar, he2016-preact, huang2016-depth, huang2017-dense or xie2017-resnext. "
            "Default: digits for the digits, he2015-cifar for the rest."
        ),
    ] = None,
    survival: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="p_L: probability that the last block survives a step; 1 is constant depth. Default: the recipe's.",
        ),
    ] = None,
    survival_schedule: Annotated[
        str, typer.Option(help="linear: from 1 at the first block to p_L; uniform: p_L for every block.")
    ] = "linear",
    settings: Settings = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images per step, over all processes. Default: the recipe's.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-9, callback=finite, help="At its peak. Default: the recipe's.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, callback=finite, help="Default: the recipe's.")] = None,
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.99, callback=finite)] = 0.0,
    clip_norm: Annotated[
        float, typer.Option(min=0, callback=finite, help="Largest norm of the gradients; 0: any.")
    ] = 0.0,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu. auto takes a GPU where there is one.")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16, fp16 or auto, of the forward pass. auto: bf16 on a GPU that computes it, fp16 on "
            "others, fp32 on the CPU. Default: fp32."
        ),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--channels-first",
            show_default=False,
            help="Memory layout while training. Default: last on a GPU in bf16 or fp16.",
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network (torch.compile): slow to begin, then faster.")
    ] = False,
    image_size: Annotated[int | None, typer.Option(min=8, help="Pixels each way. Default: the data's own.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without images that cannot be read.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files into the run too.")] = False,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    ignore_times: Annotated[
        bool, typer.Option("--ignore-times", help="With --resume: accept files with other modification times.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="With --resume: train to --epochs in total; the schedule is stretched.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the run in this folder and begin anew.")] = False,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a variant; the run's folder holds its weights, spec and metrics after every epoch.

    Several processes share the work under torchrun; see docs/training.md.

    Example: resx train resnet20 --data digits --survival 0.5 -o runs/digits
    """
    from resx.zoo.catalog import variant

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    if resume and force:
        raise UsageError("--resume and --force: give one of them")
    if ignore_times and not resume:
        raise UsageError("--ignore-times: says how to compare an earlier run's files; give --resume too")
    if extend and not (resume and epochs):
        raise UsageError("--extend: give --resume and --epochs with it, the number of epochs in all")
    found = variant(name)
    if any(setting.partition("=")[0] == "classes" for setting in settings or []):
        raise UsageError(f"--set classes: the data {data} have their own; leave it out")
    from resx.data.loading import load_data
    from resx.gpus import WISHES
    from resx.training import checkpoint, processes
    from resx.training.compiling import require_compiler
    from resx.training.config import Recipe
    from resx.training.devices import PRECISION_WISHES, choose_device, choose_precision
    from resx.training.recipes import configure, default_recipe, recipe_named
    from resx.training.run_origin import read_origin
    from resx.training.tensorboard import require_tensorboard
    from resx.zoo.spec import SURVIVAL_SCHEDULES

    chosen_device = choose_device(choose("--device", device, WISHES))
    if tensorboard:
        require_tensorboard()  # before --force deletes anything
    begun = read_origin(output) if resume and checkpoint.is_run(output) else None
    default = default_recipe(data) if begun is None else begun.training.recipe
    recipe = default if recipe is None else recipe
    # What a run was begun with and no option can say: a shrunken run has a learning rate and a warm-up of its own.
    kept = (
        begun.training.model_dump(include={*Recipe.model_fields}) if begun and begun.training.recipe == recipe else {}
    )
    wished = precision or (begun.training.precision if begun is not None else "fp32")
    in_precision = choose_precision(choose("--precision", wished, PRECISION_WISHES), chosen_device)
    if channels_last is None:
        channels_last = chosen_device == "gpu" and in_precision != "fp32"
    given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay}
    config = configure(
        data,
        recipe,
        kept
        | {key: value for key, value in given.items() if value is not None}
        | {
            "label_smoothing": label_smoothing,
            "clip_norm": clip_norm,
            "precision": in_precision,
            "device": chosen_device,
            "channels_last": channels_last,
            "compiled": compiled,
            "skip_bad": skip_bad,
            "seed": seed,
        },
    )
    with processes.join_processes(config.device) as place:
        if compiled:
            require_compiler(place.device)
        if begun is not None and image_size is None:
            image_size = begun.spec.image_size
        images = load_data(data, image_size=image_size, bad_images="skip" if skip_bad else "refuse")
        default_survival = recipe_named(recipe).survival if begun is None else begun.spec.survival
        spec = found.spec.with_settings(settings or []).with_changes(
            classes=len(images.labels),
            labels=images.labels,
            image=images.image,
            survival=default_survival if survival is None else survival,
            dropped_blocks=begun.spec.dropped_blocks if begun is not None and begun.spec.name == name else (),
            survival_schedule=choose("--survival-schedule", survival_schedule, SURVIVAL_SCHEDULES),
        )
        _train(
            spec,
            images,
            config,
            output,
            place,
            Output(as_json=json, quiet=quiet),
            resume=resume,
            ignore_times=ignore_times,
            extend=extend,
            force=force,
            tensorboard=tensorboard,
            begun=begun,
        )


def _train(
    spec: ModelSpec,
    data: DataSet,
    config: TrainingConfig,
    folder: Path,
    place: Processes,
    out: Output,
    *,
    resume: bool,
    ignore_times: bool,
    extend: bool,
    force: bool,
    tensorboard: bool,
    begun: Origin | None,
) -> None:
    """Train and report; all but the first process do so silently."""
    from resx.files.locks import require_lockable
    from resx.files.mounts import CannotLock
    from resx.training import checkpoint, loop
    from resx.training.devices import name_of
    from resx.training.run_origin import changes_of_computing
    from resx.training.tensorboard import event_files

    run = loop.TrainingRun(
        spec=spec,
        data=data,
        config=config,
        folder=folder,
        resume=resume,
        ignore_times=ignore_times,
        extend=extend,
        force=force,
    )
    if not place.is_first:
        loop.train(run, processes=place)
        return
    for remark in data.remarks:
        out.note(remark)
    try:
        require_lockable(folder)
    except CannotLock as error:
        out.note(f"warning: {error}; training goes on, and nothing keeps a second `train` out of the folder")
    if resume and not checkpoint.knows_data(folder):
        out.note(f"{folder}: begun by an older resx, so it cannot be checked that its data are the same")
    now = config.model_copy(update={"num_processes": place.count})
    if begun is not None and (changes := changes_of_computing(begun.training, now)):
        out.note(f"{folder}: {'; '.join(changes)}: from here on it is the same run but for rounding")
    metrics: list[dict[str, Any]] = []
    try:
        with (
            event_files(folder) if tensorboard else contextlib.nullcontext(lambda _entry: None) as record,
            _progress(out, now, name_of(place.device)) as (on_step, on_epoch),
        ):

            def remember(entry: dict[str, Any]) -> None:
                metrics.append(entry)
                record(entry)
                on_epoch(entry)

            loop.train(run, processes=place, on_step=on_step, on_epoch=remember)
    except KeyboardInterrupt:
        out.note(f"stopped after {len(metrics)} of {config.epochs} epochs; go on with --resume")
        raise
    _report(out, spec, data, config, folder, metrics)


def _report(
    out: Output, spec: ModelSpec, data: DataSet, config: TrainingConfig, folder: Path, metrics: list[dict[str, Any]]
) -> None:
    last, best = metrics[-1], max(metrics, key=lambda entry: float(entry["accuracy"]))
    payload = {
        "run": str(folder), "model": spec.name, "recipe": config.recipe, "num_held_out": len(data.held_out),
        "num_skipped": len(data.skipped), "num_hidden": data.hidden, "num_copies": len(data.copies),
        "num_conflicting": len(data.conflicting), "num_in_both": data.num_in_both, "skipped_files": data.others,
        "classes_not_held_out": data.not_held_out, "checksum": data.checksum, "remarks": data.remarks,
        "best_epoch": best["epoch"], "best_accuracy": best["accuracy"], **last,
    }  # fmt: skip
    num_classes = len(data.labels) - len(data.not_held_out)
    of_classes = f" of {num_classes} of {len(data.labels)} classes" if data.not_held_out else ""
    lines = [
        f"{folder}: {spec.name}, {last['epoch']} epochs, {last['accuracy']:.2%} of {len(data.held_out)} held-out "
        f"images{of_classes} right (best: {best['accuracy']:.2%} after epoch {best['epoch']})",
        f"next: resx export {shlex.quote(str(folder))}",
    ]
    out.result(payload, lambda console: print_lines(console, lines))


@contextlib.contextmanager
def _progress(out: Output, config: TrainingConfig, device: str) -> Iterator[tuple[OnStep, OnEpoch]]:
    """Give the callbacks: a bar on a terminal, a line when training begins and one per epoch everywhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=out.quiet or not console.is_terminal) as bar:
        task = bar.add_task("steps", total=None)
        began, begun_at = time.monotonic(), -1

        def on_step(done: int, total: int) -> None:
            nonlocal begun_at
            if begun_at < 0:
                begun_at = done - 1  # a resumed run's time left counts from where it goes on
                out.note(f"Training on {_computer(config, device)}")
            bar.update(task, completed=done, total=total)

        def on_epoch(entry: dict[str, Any]) -> None:
            epochs = config.epochs
            text = (
                f"  epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  accuracy {entry['accuracy']:.2%}  "
                f"{entry['images_per_s']:.0f} images/s"
            )
            if begun_at >= 0:
                per_step_s = (time.monotonic() - began) / (entry["step"] - begun_at)
                steps_left = entry["step"] / entry["epoch"] * (epochs - entry["epoch"])
                text += f"  {_duration(per_step_s * steps_left)} left"
            if not out.quiet:
                bar.console.print(text, highlight=False)

        yield on_step, on_epoch


def _computer(config: TrainingConfig, device: str) -> str:
    """Say what computes, and how."""
    where = "the CPU" if device == "cpu" else device
    if config.num_processes > 1:
        where = f"{config.num_processes} processes, the first on {where}"
    how = [config.precision, *(["channels last"] if config.channels_last else []), *(["compiled"] * config.compiled)]
    return f"{where}: {', '.join(how)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
