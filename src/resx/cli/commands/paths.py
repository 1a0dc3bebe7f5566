"""`resx paths`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.completion import complete_source
from resx.cli.options.figure import Plot
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.seed import Seed
from resx.cli.options.study import Figures, StudiedData, StudyFolder
from resx.cli.output import Output
from resx.cli.steps.study_inputs import data_of
from resx.cli.views.path_study import show_paths
from resx.cli.views.progress import show_bar
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.analysis.paths.study import PathGradients, PathLengths
    from resx.zoo.spec import ModelSpec


def paths(
    source: Annotated[
        str,
        typer.Argument(help="A run's folder, or a variant: path lengths only.", autocompletion=complete_source),
    ],
    between: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="LOW HIGH", help="Also print the share of paths with LOW to HIGH blocks."),
    ] = None,
    data: StudiedData = "",
    images: Annotated[int, typer.Option(min=1, metavar="N", help="Training images whose gradients are taken.")] = 16,
    draws: Annotated[int, typer.Option(min=1, metavar="N", help="Random paths of each length.")] = 16,
    output: StudyFolder = None,
    figures: Figures = True,
    plot: Plot = None,
    *,
    printing: TableOptions,
    seed: Seed = 0,
    limits: ImageLimits,
) -> None:
    """Count a network's paths by length; for a run, also measure the gradient along them (Veit et al. 2016).

    Example: resx paths resnet110 --between 19 35
    """
    from resx.zoo.catalog import kind_of, variant
    from resx.zoo.spec import SPEC_FILE, read_spec

    limits.apply()
    kind = kind_of(source)
    if kind not in ("run", "variant"):
        raise UsageError(f"{source}: its block structure is unknown; give a run's folder or a variant")
    if kind == "variant" and data:
        raise UsageError(f"--data {data}: {source} has no trained weights; give a run's folder, or remove --data")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file; give a folder")
    spec = read_spec(Path(source) / SPEC_FILE) if kind == "run" else variant(source).spec
    from resx.analysis.network_steps import require_residual_blocks
    from resx.analysis.paths.figures import path_figures
    from resx.analysis.paths.study import path_lengths, topology
    from resx.figures import draw_figure, draw_forms, join_figures, require_drawable, require_matplotlib
    from resx.files.staging import write_atomic

    require_residual_blocks(spec, "a choice of paths")
    if output is not None and figures:
        require_matplotlib()
    if plot is not None:
        require_drawable(plot)
    out = printing.open()
    lengths = path_lengths(topology(spec.architecture, spec.kept_blocks))
    gradients = _measure(Path(source), spec, lengths, data, (images, draws, seed), out) if kind == "run" else None
    payload = {"model": spec.name, "seed": seed, "lengths": lengths.model_dump(mode="json")}
    payload["gradients"] = None if gradients is None else gradients.model_dump(mode="json")
    if between is not None:
        payload["between"] = {"low": between[0], "high": between[1], "share": lengths.share_between(*between)}
    if output is not None:
        write_atomic(output / "paths.json", _text(payload))
        if figures:
            draw_forms(path_figures(spec.name, lengths, gradients), output)
    if plot is not None:
        draw_figure(join_figures("paths", path_figures(spec.name, lengths, gradients)), plot)
    written = [one for one in (output, plot) if one]
    out.result(payload, lambda console: show_paths(console, payload, lengths, gradients, written))


def _measure(
    run: Path, spec: ModelSpec, lengths: PathLengths, data: str, numbers: tuple[int, int, int], out: Output
) -> PathGradients:
    import numpy as np
    import torch

    from resx.analysis.network_steps import steps_of
    from resx.analysis.paths.study import PathTape, path_gradients
    from resx.training.evaluation import normalize
    from resx.training.runs.checkpoint import load_run

    num_images, draws, seed = numbers
    model, _ = load_run(run)
    found = data_of(run, data, spec, out)
    chosen = np.random.default_rng(seed).permutation(len(found.train))[:num_images]
    x_NCHW = normalize(found.train.images[chosen], spec, torch.device("cpu"))
    tape = PathTape(steps_of(model, spec), x_NCHW, torch.from_numpy(found.train.targets[chosen]))
    with show_bar(out, "lengths") as on_length:
        return path_gradients(tape, lengths, draws=draws, seed=seed, on_length=on_length)


def _text(payload: dict[str, Any]) -> str:
    import json

    return json.dumps(payload, indent=1) + "\n"
