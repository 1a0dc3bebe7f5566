"""`resx paths`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.commands.lesion import data_of, images_bar
from resx.cli.options.shared import Json, MaxFileMib, MaxMegapixels, Quiet, Seed
from resx.cli.output import Output, print_lines, table
from resx.errors import UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.paths.study import PathGradients, PathLengths
    from resx.zoo.spec import ModelSpec


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("paths")(paths)


def paths(
    source: Annotated[str, typer.Argument(help="A run's folder, or a variant: of that the lengths alone.")],
    between: Annotated[
        tuple[int, int] | None, typer.Option(help="Say also what share of the paths has LOW to HIGH blocks.")
    ] = None,
    data: Annotated[
        str, typer.Option(help="digits, cifar10:DIR, cifar100:DIR or folder:DIR. Default: what the run trained on.")
    ] = "",
    images: Annotated[int, typer.Option(min=1, help="Training images whose gradients are taken.")] = 16,
    draws: Annotated[int, typer.Option(min=1, help="Random paths of each length.")] = 16,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A folder for paths.json and figures.")] = None,
    figures: Annotated[bool, typer.Option(help="Draw into the output folder.")] = True,
    seed: Seed = 0,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count a network's paths by length, and measure the gradient that a run's carry (Veit et al. 2016).

    Example: resx paths resnet110 --between 19 35
    """
    from resx.zoo.catalog import kind_of, variant
    from resx.zoo.spec import SPEC_FILE, read_spec

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    kind = kind_of(source)
    if kind not in ("run", "variant"):
        raise UsageError(f"{source}: its blocks are not known; give a run's folder or a variant")
    if kind == "variant" and data:
        raise UsageError(f"--data {data}: {source} has no trained weights; give a run's folder, or leave --data out")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file; give a folder")
    spec = read_spec(Path(source) / SPEC_FILE) if kind == "run" else variant(source).spec
    from resx.analysis.figures import require_matplotlib
    from resx.analysis.network_steps import require_residual_blocks
    from resx.analysis.paths.figures import draw_paths
    from resx.analysis.paths.study import path_lengths, topology
    from resx.files.staging import write_atomic

    require_residual_blocks(spec, "a choice of paths")
    if output is not None and figures:
        require_matplotlib()
    out = Output(as_json=json, quiet=quiet)
    lengths = path_lengths(topology(spec.architecture, spec.kept_blocks))
    gradients = _measure(Path(source), spec, lengths, data, (images, draws, seed), out) if kind == "run" else None
    payload = {"model": spec.name, "seed": seed, "lengths": lengths.model_dump(mode="json")}
    payload["gradients"] = None if gradients is None else gradients.model_dump(mode="json")
    if between is not None:
        payload["between"] = {"low": between[0], "high": between[1], "share": lengths.share_between(*between)}
    if output is not None:
        write_atomic(output / "paths.json", _text(payload))
        if figures:
            draw_paths(spec.name, lengths, gradients, output)
    out.result(payload, lambda console: _show(console, payload, lengths, gradients, output))


def _measure(
    run: Path, spec: ModelSpec, lengths: PathLengths, data: str, numbers: tuple[int, int, int], out: Output
) -> PathGradients:
    import numpy as np
    import torch

    from resx.analysis.network_steps import steps_of
    from resx.analysis.paths.study import PathTape, path_gradients
    from resx.training.checkpoint import load_run
    from resx.training.evaluation import normalize

    num_images, draws, seed = numbers
    model, _ = load_run(run)
    found = data_of(run, data, spec, out)
    chosen = np.random.default_rng(seed).permutation(len(found.train))[:num_images]
    x_NCHW = normalize(found.train.images[chosen], spec, torch.device("cpu"))
    tape = PathTape(steps_of(model, spec), x_NCHW, torch.from_numpy(found.train.targets[chosen]))
    with images_bar(out, "lengths") as on_length:
        return path_gradients(tape, lengths, draws=draws, seed=seed, on_length=on_length)


def _text(payload: dict[str, Any]) -> str:
    import json

    return json.dumps(payload, indent=1) + "\n"


def _show(
    console: Console,
    payload: dict[str, Any],
    lengths: PathLengths,
    gradients: PathGradients | None,
    output: Path | None,
) -> None:
    columns, rows = ["length", "paths, %"], []
    for length, share in enumerate(lengths.shares):
        row = [str(length), f"{100 * share:.3g}"]
        if gradients is not None:
            row += [f"{gradients.lengths[length].mean:.3g}", f"{100 * gradients.shares[length]:.3g}"]
        rows.append(row)
    if gradients is not None:
        columns += ["gradient of one", "paths x gradient, %"]
    console.print(table("", columns, rows, left=0))
    lines = [
        f"{payload['model']}: {lengths.num_blocks} blocks, mean length {lengths.mean:.1f} (standard deviation "
        f"{lengths.std:.2f}); {lengths.span.share:.1%} of the paths have {lengths.span.low} to {lengths.span.high}"
    ]
    if between := payload.get("between"):
        lines.append(f"{between['share']:.2%} of the paths have {between['low']} to {between['high']} blocks")
    if gradients is None:
        lines.append("lengths alone: gradients need the weights of a run")
    else:
        lines.append(
            f"paths of {gradients.span.low} to {gradients.span.high} blocks carry {gradients.span.share:.1%} of the "
            f"gradient; mean length weighted by it {gradients.mean_length:.1f}"
        )
    if output is not None:
        lines.append(f"wrote {output}")
    print_lines(console, lines)
