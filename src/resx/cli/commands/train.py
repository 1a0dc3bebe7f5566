"""`resx train`."""

from __future__ import annotations

from typing import Annotated

import typer

from resx.cli.completion import complete_variant
from resx.cli.options.fine_tuning import StartOptions
from resx.cli.options.grouping import typed_options
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import OutputOptions
from resx.cli.options.seed import Seed
from resx.cli.options.training import ComputationOptions, NetworkOptions, RecipeOptions, RunOptions
from resx.cli.steps.training_job import TrainingJob, complete


def train(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A variant: see `resx models`.", autocompletion=complete_variant)],
    network: NetworkOptions,
    start: StartOptions,
    with_recipe: RecipeOptions,
    computation: ComputationOptions,
    run: RunOptions,
    printing: OutputOptions,
    data: Annotated[
        str, typer.Option(metavar="DATA", help="digits, mnist5k, cifar10:DIR, cifar100:DIR or folder:DIR.")
    ] = "digits",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", metavar="", help="Skip images that cannot be read.")] = False,
    seed: Seed = 0,
    *,
    limits: ImageLimits,
) -> None:
    """Train or fine-tune a variant on images. A run folder keeps its weights and metrics after every epoch.

    With --resume, options that are not given keep the run's values. For several processes see
    docs/training-processes.md.

    Examples: resx train resnet20 --data digits --survival 0.5 -o runs/digits; resx train resnet50 --weights imagenet
    --data folder:flowers -o runs/flowers
    """
    from resx.zoo.catalog import variant

    limits.apply()
    run.require_fitting(with_recipe.epochs)
    found, folder = variant(name), run.folder(name)
    from resx.data.loading import load_data
    from resx.training import processes
    from resx.training.compiling import require_compiler
    from resx.training.optimization.stages import require_stage
    from resx.training.recipes import recipe_named
    from resx.training.runs import checkpoint
    from resx.training.runs.run_origin import read_origin
    from resx.training.runs.tensorboard import require_tensorboard
    from resx.training.starting_network import find_starting_network

    device, typed = computation.chosen_device(), typed_options(context)
    if run.tensorboard:
        require_tensorboard()  # before --force deletes anything
    begun = read_origin(folder) if run.resume and checkpoint.is_run(folder) else None
    options = {"data": data, "skip_bad": skip_bad, "seed": seed, "weights": start.weights or "none"}
    options = {key: value for key, value in options.items() if begun is None or key in typed}
    usual_precision = "fp32" if begun is None else begun.training.precision
    changes = with_recipe.changes() | start.changes() | computation.settings(device, usual_precision) | options
    config = complete(with_recipe.recipe, changes, begun)
    network.require_free_classes(config.data)
    source = find_starting_network(found.spec, config.weights, config.freeze, begun)
    with processes.join_processes(config.device) as place:
        if config.compiled:
            require_compiler(place.device)
        size = source.image_size(network.image_size, config.data)
        images = load_data(config.data, image_size=size, bad_images="skip" if config.skip_bad else "refuse")
        spec = source.spec(
            network.network(found.spec, source.before),
            images,
            survival=network.survival,
            usual_survival=recipe_named(config.recipe).survival,
            schedule=network.schedule() if "survival_schedule" in typed else None,
        )
        require_stage(spec, config.freeze)
        weights = source.load(spec, seed=config.seed, entry=start.weights_entry)
        job = TrainingJob(
            spec=spec,
            data=images,
            config=config,
            folder=folder,
            options=run,
            place=place,
            begun=begun,
            start=weights,
        )
        job.run(printing.open())
