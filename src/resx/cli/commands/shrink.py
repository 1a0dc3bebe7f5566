"""`resx shrink`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.figure import Plot
from resx.cli.options.grouping import output_option
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.seed import Seed
from resx.cli.options.shrinking import BlockSearch, TargetSize
from resx.cli.options.study import RunFolder, StudiedData
from resx.cli.output import Output
from resx.cli.steps.study_inputs import data_of, require_run
from resx.cli.views.progress import show_bar
from resx.cli.views.shrunken_runs import show_runs
from resx.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from resx.analysis.shrink.search import SearchOptions, ShrunkenNetwork, Sized
    from resx.data.dataset import DataSet
    from resx.zoo.spec import ModelSpec


def shrink(
    run: RunFolder,
    wanted: TargetSize,
    how: BlockSearch,
    data: StudiedData = "",
    finetune: Annotated[
        int, typer.Option(min=0, metavar="N", help="Fine-tune for N epochs at 0.1x the learning rate.")
    ] = 0,
    output: Annotated[
        Path | None,
        output_option(
            "-o",
            "--output",
            metavar="DIR",
            help="The new run's folder; with --pareto, a folder of several. Default: runs/RUN-small.",
        ),
    ] = None,
    plot: Plot = None,
    *,
    printing: TableOptions,
    seed: Seed = 0,
    limits: ImageLimits,
) -> None:
    """Remove the blocks of a run that cost the least accuracy; the smaller network becomes a new run.

    Example: resx shrink runs/digits --drop 4 -o runs/digits-small
    """
    limits.apply()
    require_run(run)
    folder = output or Path("runs") / f"{run.resolve().name}-small"
    if plot is not None and not wanted.pareto:
        raise UsageError(f"--plot {plot}: draws the front of --pareto; add --pareto, or remove --plot")
    if folder.exists():
        raise UsageError(f"{folder}: exists already; choose a new folder with -o")
    from resx.analysis.shrink.figures import front_figure
    from resx.analysis.shrink.search import require_removable
    from resx.analysis.shrink.shrunken_run import publish_run
    from resx.figures import draw_figure, require_drawable
    from resx.training.runs.checkpoint import load_run

    if plot is not None:
        require_drawable(plot)
    out = printing.open()
    model, spec = load_run(run)
    require_removable(spec, wanted.drop)
    images = data_of(run, data, spec, out)
    options = how.options(seed=seed)
    whole, chosen, sizes = _search(model, spec, images, options, wanted, out)
    records = []
    for sized in chosen:
        one = folder / f"{sized.member.num_blocks}-blocks" if wanted.pareto else folder
        with show_bar(out, "steps") as on_step:
            record = publish_run(
                one, sized, whole, run, images, search=options, finetune_epochs=finetune, on_step=on_step
            )
        records.append((one, record))
    if plot is not None:
        draw_figure(front_figure(spec.name, images.name, sizes), plot)
    payload = {
        "whole": whole.model_dump(mode="json"),
        "runs": [{"folder": str(one), **record.model_dump(mode="json")} for one, record in records],
        "sizes": [member.model_dump(mode="json") for member in sizes],
    }
    out.result(payload, lambda console: show_runs(console, whole, records, plot))


def _search(
    model: nn.Module, spec: ModelSpec, images: DataSet, options: SearchOptions, wanted: TargetSize, out: Output
) -> tuple[ShrunkenNetwork, list[Sized], list[ShrunkenNetwork]]:
    """Return the whole network, those that are wanted, and every size that was measured (--pareto only)."""
    from resx.analysis.shrink import choice
    from resx.analysis.shrink.search import measure, require_removable
    from resx.analysis.shrink.search import sizes as all_sizes
    from resx.export.block_latency import measure_blocks
    from resx.export.graph.batchnorm_fusion import fuse

    def prepare(part: nn.Module) -> nn.Module:
        return fuse(part, target="gpu")

    whole = measure(model, spec, images, prepare)
    most = require_removable(spec, wanted.drop) if wanted.drop is None else wanted.drop
    with show_bar(out, "blocks less") as on_size:

        def sizes() -> Iterator[Sized]:
            for number, sized in enumerate(all_sizes(model, spec, images, options, prepare), start=1):
                on_size(number, most)
                yield sized

        if wanted.drop is not None:
            return whole.member, [choice.after_drops(sizes(), wanted.drop)], []
        if wanted.max_accuracy_drop is not None:
            share = wanted.max_accuracy_drop / 100
            return whole.member, [choice.within_accuracy(sizes(), whole.member.accuracy, share)], []
        times = measure_blocks(model, spec)
        timed = whole.member.model_copy(update={"latency_ms": times.total_ms})
        if wanted.latency is not None:
            left = set(spec.architecture.removable_blocks) - set(spec.dropped_blocks)
            choice.require_reachable(times, left, wanted.latency)
            return timed, [choice.within_latency(sizes(), times, wanted.latency, measure_blocks)], []
        return timed, *choice.on_front(timed, sizes(), times, measure_blocks)
