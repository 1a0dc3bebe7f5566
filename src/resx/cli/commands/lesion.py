"""`resx lesion`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.shared import Json, MaxFileMib, MaxMegapixels, Quiet, Seed
from resx.cli.output import Output, print_lines, stderr_console, table
from resx.errors import UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.lesion.study import ErrorSpread, LesionStudy, OnImages
    from resx.data.dataset import DataSet
    from resx.zoo.spec import ModelSpec

_DEFAULT_MAX_DELETED = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("lesion")(lesion)


def lesion(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[
        str, typer.Option(help="digits, cifar10:DIR, cifar100:DIR or folder:DIR. Default: what the run trained on.")
    ] = "",
    draws: Annotated[int, typer.Option(min=1, help="Random choices per number of deletions and swaps.")] = 10,
    max_deleted: Annotated[
        int | None, typer.Option(min=1, help=f"Delete up to this many. Default: {_DEFAULT_MAX_DELETED}, or all.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder for lesions.json and the figures.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw into the output folder.")] = True,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in the output folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the study in the output folder, begin anew.")] = False,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete and exchange a run's blocks, and measure what its held-out images say of it (Veit et al. 2016).

    Example: resx lesion runs/digits -o lesions
    """
    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    if resume and (force or output is None):
        raise UsageError("--resume: goes on with what -o holds; give -o, and not --force")
    require_run(run)
    from resx.analysis.figures import require_matplotlib
    from resx.analysis.lesion import study as lesions
    from resx.analysis.lesion.figures import draw_lesions
    from resx.analysis.lesion.variants import deletable
    from resx.analysis.network_steps import prepare_steps, steps_of
    from resx.export.graph.batchnorm_fusion import fuse
    from resx.export.sources.source import weights_sha256
    from resx.training.checkpoint import load_run

    out = Output(as_json=json, quiet=quiet)
    if output is not None:
        _prepare(output, resume=resume, force=force)
        if figures:
            require_matplotlib()
    model, spec = load_run(run)
    images = data_of(run, data, spec, out)
    steps = steps_of(model, spec)
    plan = lesions.LesionPlan(
        model=spec.name,
        weights_sha256=weights_sha256(model),
        data=images.name,
        num_images=len(images.held_out),
        draws=draws,
        max_deleted=min(_DEFAULT_MAX_DELETED, len(deletable(steps))) if max_deleted is None else max_deleted,
        seed=seed,
    )
    fast = prepare_steps(steps, lambda part: fuse(part, target="gpu"))
    with images_bar(out) as on_images:
        found = lesions.study(steps, fast, spec, images, plan, output, on_images)
    if output is not None and figures:
        draw_lesions(found, output)
    out.result(found.model_dump(mode="json"), lambda console: _show(console, found, output))


def require_run(run: Path) -> None:
    """Refuse what is no run's folder, before anything heavy is imported.

    Raises:
        UsageError: it is none.
    """
    from resx.zoo.catalog import VARIANTS, kind_of

    if str(run) in VARIANTS and not run.exists():
        raise UsageError(
            f"{run}: a variant has no trained weights; give a run's folder: resx train {run} -o runs/{run}"
        )
    if kind_of(str(run)) != "run":
        raise UsageError(f"{run}: not a run; give the folder of one (`resx train` makes it)")


def data_of(run: Path, data: str, spec: ModelSpec, out: Output) -> DataSet:
    """Load the data that the user named, or that a run was trained on, and say what was left out of them.

    Raises:
        UsageError: they are not there, or have other classes than the run's network.
    """
    from resx.analysis.lesion.study import require_same_classes
    from resx.data.loading import load_data
    from resx.training.checkpoint import load_run_data

    if data:
        found = load_data(data, image_size=spec.image_size)
    else:
        try:
            found = load_run_data(run)
        except UsageError as error:
            raise UsageError(f"{run}: its data cannot be loaded ({error}); name them with --data") from error
    require_same_classes(spec, found)
    for remark in found.remarks:
        out.note(remark)
    return found


@contextlib.contextmanager
def images_bar(out: Output, what: str = "images") -> Iterator[OnImages]:
    """Give a callback that moves a bar on a terminal; elsewhere it is silent."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=out.quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def on_images(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield on_images


def _prepare(folder: Path, *, resume: bool, force: bool) -> None:
    """Refuse to overwrite a study, and to resume what is none."""
    from resx.analysis.lesion.study import PARTIAL, RESULT

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder")
    partial, result = folder / PARTIAL, folder / RESULT
    if force:
        partial.unlink(missing_ok=True)
        result.unlink(missing_ok=True)
    if resume and not partial.is_file():
        raise UsageError(f"{folder}: no unfinished study; leave out --resume to begin one")
    if partial.is_file() and not resume:
        raise UsageError(f"{folder}: holds an unfinished study; --resume goes on with it, --force deletes it")
    if result.is_file():
        raise UsageError(f"{folder}: holds a finished study; give another folder, or --force")


def _show(console: Console, found: LesionStudy, output: Path | None) -> None:
    rows = [
        [
            str(one.block),
            one.name,
            f"{one.error:.2%}",
            f"{100 * (one.error - found.error):+.2f}",
            "changes shape" if one.changes_shape else "",
        ]
        for one in found.blocks
    ]
    console.print(
        f"{found.plan.model}: error {found.error:.2%} on {found.plan.num_images} held-out images; without one block:",
        markup=False,
        soft_wrap=True,
    )
    console.print(table("", ["block", "name", "error", "points", ""], rows, left=2))
    _print_spreads(console, f"without k random blocks, {found.plan.draws} draws each:", found.deleted)
    if found.swapped:
        _print_spreads(console, "after k exchanges of two random blocks of one shape:", found.swapped)
    cost = found.cost
    lines = [
        f"median increase over single deletions {100 * found.median_single_increase:.2f} points; "
        f"chance is an error of {found.chance_error:.2%}",
        f"{cost.num_variants} networks in {cost.seconds:.1f} s: {cost.block_evaluations:,} block evaluations an image "
        f"in place of {cost.naive_block_evaluations:,} ({cost.ratio:.2f}; single deletions {cost.singles_ratio:.2f})",
    ]
    if output is not None:
        lines.append(f"wrote {output}")
    print_lines(console, lines)


def _print_spreads(console: Console, title: str, spreads: tuple[ErrorSpread, ...]) -> None:
    rows = [
        [str(one.k), f"{one.mean:.2%}", f"{100 * one.std:.2f}", f"{one.lowest:.2%}", f"{one.highest:.2%}"]
        for one in spreads
    ]
    console.print(title, markup=False, soft_wrap=True)
    console.print(table("", ["k", "mean error", "std", "lowest", "highest"], rows, left=0))
