"""`resx lesion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resx.cli.options.figure import Plot
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.resuming import Force, Resume
from resx.cli.options.seed import Seed
from resx.cli.options.study import Figures, RunFolder, StudiedData, StudyFolder
from resx.cli.steps.study_inputs import data_of, require_run
from resx.cli.views.lesion_study import show_study
from resx.cli.views.progress import show_bar
from resx.errors import UsageError

_DEFAULT_MAX_DELETED = 20


def lesion(
    run: RunFolder,
    data: StudiedData = "",
    draws: Annotated[
        int, typer.Option(min=1, metavar="N", help="Random choices per number of deletions and swaps.")
    ] = 10,
    max_deleted: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=f"Delete up to N blocks. Default: {_DEFAULT_MAX_DELETED}, or all."),
    ] = None,
    output: StudyFolder = None,
    figures: Figures = True,
    plot: Plot = None,
    resume: Resume = False,
    force: Force = False,
    *,
    printing: TableOptions,
    seed: Seed = 0,
    limits: ImageLimits,
) -> None:
    """Measure how a run's error grows when blocks are deleted or exchanged (Veit et al. 2016).

    Example: resx lesion runs/digits -o lesions
    """
    limits.apply()
    if resume and (force or output is None):
        raise UsageError("--resume: continues the study in -o; give -o and remove --force")
    require_run(run)
    from resx.analysis.lesion import study as lesions
    from resx.analysis.lesion.figures import lesion_figures
    from resx.analysis.lesion.variants import deletable
    from resx.analysis.network_steps import prepare_steps, steps_of
    from resx.export.graph.batchnorm_fusion import fuse
    from resx.export.sources.source import weights_sha256
    from resx.figures import draw_figure, draw_forms, join_figures, require_drawable, require_matplotlib
    from resx.training.runs.checkpoint import load_run

    out = printing.open()
    if output is not None:
        _prepare(output, resume=resume, force=force)
        if figures:
            require_matplotlib()
    if plot is not None:
        require_drawable(plot)
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
    with show_bar(out, "images") as on_images:
        found = lesions.study(steps, fast, spec, images, plan, output, on_images)
    if output is not None and figures:
        draw_forms(lesion_figures(found), output)
    if plot is not None:
        draw_figure(join_figures("lesions", lesion_figures(found)), plot)
    out.result(
        found.model_dump(mode="json"),
        lambda console: show_study(console, found, [one for one in (output, plot) if one]),
    )


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
        raise UsageError(f"{folder}: no unfinished study; remove --resume to start one")
    if partial.is_file() and not resume:
        raise UsageError(f"{folder}: contains an unfinished study; --resume continues it, --force deletes it")
    if result.is_file():
        raise UsageError(f"{folder}: contains a finished study; choose another folder, or use --force")
