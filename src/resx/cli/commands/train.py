"""`resx train`."""

from __future__ import annotations

from typing import Annotated

import typer

from resx.cli.completion import complete_variant
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import OutputOptions
from resx.cli.options.seed import Seed
from resx.cli.options.training import ComputationOptions, NetworkOptions, RecipeOptions, RunOptions
from resx.cli.steps.training_job import TrainingJob


def train(
    name: Annotated[str, typer.Argument(help="A variant: see `resx models`.", autocompletion=complete_variant)],
    network: NetworkOptions,
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
    """Train a variant on images; a folder, the run, gets its weights and metrics after every epoch.

    Several processes share the work under torchrun; see docs/training-processes.md.

    Example: resx train resnet20 --data digits --survival 0.5 -o runs/digits
    """
    from resx.zoo.catalog import variant

    limits.apply()
    run.require_fitting(with_recipe.epochs)
    found = variant(name)
    network.require_free_classes(data)
    folder = run.folder(name)
    from resx.data.loading import load_data
    from resx.training import checkpoint, processes
    from resx.training.compiling import require_compiler
    from resx.training.config import Recipe
    from resx.training.recipes import configure, default_recipe, recipe_named
    from resx.training.run_origin import read_origin
    from resx.training.tensorboard import require_tensorboard

    device = computation.chosen_device()
    if run.tensorboard:
        require_tensorboard()  # before --force deletes anything
    begun = read_origin(folder) if run.resume and checkpoint.is_run(folder) else None
    usual_recipe = default_recipe(data, network.image_size) if begun is None else begun.training.recipe
    recipe = usual_recipe if with_recipe.recipe is None else with_recipe.recipe
    # What a run was begun with and no option can say: a shrunken run has a learning rate and a warm-up of its own.
    kept = (
        begun.training.model_dump(include={*Recipe.model_fields}) if begun and begun.training.recipe == recipe else {}
    )
    config = configure(
        data,
        recipe,
        kept
        | with_recipe.changes()
        | computation.settings(device, "fp32" if begun is None else begun.training.precision)
        | {"skip_bad": skip_bad, "seed": seed},
    )
    with processes.join_processes(config.device) as place:
        if config.compiled:
            require_compiler(place.device)
        size = begun.spec.image_size if begun is not None and network.image_size is None else network.image_size
        images = load_data(data, image_size=size, bad_images="skip" if skip_bad else "refuse")
        usual_survival = recipe_named(recipe).survival if begun is None else begun.spec.survival
        spec = network.network(found.spec, begun).with_changes(
            classes=len(images.labels),
            labels=images.labels,
            image=images.image,
            survival=usual_survival if network.survival is None else network.survival,
            dropped_blocks=begun.spec.dropped_blocks if begun is not None and begun.spec.name == name else (),
            survival_schedule=network.schedule(),
        )
        job = TrainingJob(spec=spec, data=images, config=config, folder=folder, options=run, place=place, begun=begun)
        job.run(printing.open())
