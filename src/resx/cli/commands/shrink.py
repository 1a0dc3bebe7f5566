"""`resx shrink`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.commands.lesion import data_of, images_bar, require_run
from resx.cli.options.shared import Json, MaxFileMib, MaxMegapixels, Quiet, Seed, finite
from resx.cli.output import Output, table
from resx.errors import UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from resx.analysis.shrink.search import SearchOptions, ShrunkenNetwork, Sized
    from resx.analysis.shrink.shrunken_run import ShrinkRecord
    from resx.data.dataset import DataSet
    from resx.zoo.spec import ModelSpec


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("shrink")(shrink)


def shrink(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new run's folder; with --pareto, of several.")],
    drop: Annotated[int | None, typer.Option(min=1, help="This many blocks less.")] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, callback=finite, help="As few blocks as cost at most so many points, held-out."),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(min=1e-6, callback=finite, help="As many blocks as take so many ms, measured in onnxruntime."),
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="All sizes; a run for each that no other beats.")] = False,
    data: Annotated[
        str, typer.Option(help="digits, cifar10:DIR, cifar100:DIR or folder:DIR. Default: what the run trained on.")
    ] = "",
    recalibrate: Annotated[bool, typer.Option(help="Fit batch norms to training images after each removal.")] = True,
    finetune: Annotated[int, typer.Option(min=0, help="Train on for so many epochs, at a tenth of the rate.")] = 0,
    search_images: Annotated[int, typer.Option(min=1, help="Training images that blocks are chosen on.")] = 256,
    shortlist: Annotated[int, typer.Option(min=1, help="Blocks tried with fitted batch norms before one goes.")] = 4,
    random: Annotated[bool, typer.Option("--random", help="Drop random blocks: what a search compares with.")] = False,
    seed: Seed = 0,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a run with fewer blocks of a run, those gone that its accuracy misses least.

    Example: resx shrink runs/digits --drop 4 -o runs/digits-small
    """
    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    wanted = TargetSize(drop=drop, max_accuracy_drop=max_accuracy_drop, latency_ms=latency, pareto=pareto)
    require_run(run)
    if output.exists():
        raise UsageError(f"{output}: exists; give a new folder")
    from resx.analysis.shrink.search import SearchOptions, require_removable
    from resx.analysis.shrink.shrunken_run import publish_run
    from resx.training.checkpoint import load_run

    out = Output(as_json=json, quiet=quiet)
    model, spec = load_run(run)
    require_removable(spec, drop)
    images = data_of(run, data, spec, out)
    options = SearchOptions(
        num_images=search_images,
        shortlist=shortlist,
        seed=seed,
        at_random=random,
        num_recalibration_images=SearchOptions().num_recalibration_images if recalibrate else 0,
    )
    whole, chosen, sizes = _search(model, spec, images, options, wanted, out)
    records = []
    for sized in chosen:
        folder = output / f"{sized.member.num_blocks}-blocks" if pareto else output
        with images_bar(out, "steps") as on_step:
            record = publish_run(
                folder, sized, whole, run, images, search=options, finetune_epochs=finetune, on_step=on_step
            )
        records.append((folder, record))
    payload = {
        "whole": whole.model_dump(mode="json"),
        "runs": [{"folder": str(folder), **record.model_dump(mode="json")} for folder, record in records],
        "sizes": [member.model_dump(mode="json") for member in sizes],
    }
    out.result(payload, lambda console: _show(console, whole, records))


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSize:
    """How small a network has to become."""

    drop: int | None
    max_accuracy_drop: float | None
    """In points."""
    latency_ms: float | None
    pareto: bool

    def __post_init__(self) -> None:
        given = (self.drop is not None, self.max_accuracy_drop is not None, self.latency_ms is not None, self.pareto)
        if sum(given) != 1:
            raise UsageError("resx shrink: how far? give one of --drop, --max-accuracy-drop, --latency and --pareto")


def _search(
    model: nn.Module, spec: ModelSpec, images: DataSet, options: SearchOptions, wanted: TargetSize, out: Output
) -> tuple[ShrunkenNetwork, list[Sized], list[ShrunkenNetwork]]:
    """Return the whole network, those that are wanted, and every size that was measured (--pareto only)."""
    from resx.analysis.shrink import choice
    from resx.analysis.shrink.search import measure, require_removable
    from resx.analysis.shrink.search import sizes as all_sizes
    from resx.export.checks.block_latency import measure_blocks
    from resx.export.graph.batchnorm_fusion import fuse

    def prepare(part: nn.Module) -> nn.Module:
        return fuse(part, target="gpu")

    whole = measure(model, spec, images, prepare)
    most = require_removable(spec, wanted.drop) if wanted.drop is None else wanted.drop
    with images_bar(out, "blocks less") as on_size:

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
        if wanted.latency_ms is not None:
            left = set(spec.architecture.removable_blocks) - set(spec.dropped_blocks)
            choice.require_reachable(times, left, wanted.latency_ms)
            return timed, [choice.within_latency(sizes(), times, wanted.latency_ms, measure_blocks)], []
        return timed, *choice.on_front(timed, sizes(), times, measure_blocks)


def _show(console: Console, whole: ShrunkenNetwork, records: list[tuple[Path, ShrinkRecord]]) -> None:
    def row(folder: str, member: ShrunkenNetwork, accuracy: float) -> list[str]:
        latency = "" if member.latency_ms is None else f"{member.latency_ms:.3g}"
        dropped = ", ".join(map(str, member.dropped_blocks))
        return [folder, str(member.num_blocks), f"{accuracy:.2%}", latency, dropped]

    rows = [row(records[0][1].source, whole, whole.accuracy)]
    rows += [row(str(folder), record.member, record.accuracy) for folder, record in records]
    console.print(table("", ["run", "blocks", "held-out accuracy", "ms", "without blocks"], rows))
    console.print(f"next: resx export {shlex.quote(str(records[-1][0]))}", markup=False, soft_wrap=True)
