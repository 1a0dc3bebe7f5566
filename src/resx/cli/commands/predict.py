"""`resx predict`: score all images of a source, in this process, on a Ray cluster or through a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.shared import (
    Ca,
    Cert,
    Header,
    Json,
    Key,
    MaxFileMib,
    MaxMegapixels,
    ProtocolName,
    Quiet,
    RepositoryPath,
    choose,
)
from resx.cli.output import Output, stderr_console
from resx.cli.views import random_weights
from resx.errors import MissingCapability, ResxError, ServerError, UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from rich.console import Console

    from resx.scoring.run import ScoringEngine

    Opened: TypeAlias = AbstractContextManager[ScoringEngine]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("predict")(predict)


def predict(
    name: Annotated[str, typer.Argument(help="A published model, NAME or NAME:VERSION; the newest version else.")],
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a glob, a .txt with one path a line, a .parquet with a column of bytes, or a URI of these."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Ends in .parquet, .csv or .jsonl.")],
    top: Annotated[int, typer.Option(min=1, help="Classes for each image, at most all of the model's.")] = 5,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run was stopped or killed.")] = False,
    ignore_times: Annotated[
        bool, typer.Option("--ignore-times", help="With --resume: accept files with other modification times.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again; OUT is replaced at the end.")] = False,
    csv_safe: Annotated[
        bool, typer.Option("--csv-safe", help="For spreadsheets: write no cell of the .csv that is a formula.")
    ] = False,
    column: Annotated[str, typer.Option(help="Of the images' bytes in Parquet. Default: the only one.")] = "",
    images_from: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where images may lie that Parquet names by path. Default: the table's folder."
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda, where this process or --ray computes. Default: cpu.")] = "",
    server: Annotated[
        str,
        typer.Option(
            "--server",
            "--url",
            metavar="URL",
            help="Compute there: host:port of a Triton, or grpc://, grpcs://, http://, https:// and that.",
        ),
    ] = "",
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Batches at the --server at the same time.")] = 4,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="Times to ask the --server again when the connection was lost.")
    ] = 8,
    ray: Annotated[
        str,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Compute on that Ray cluster: its head's HOST:6379, auto on a node of it, or local for one made here.",
        ),
    ] = "",
    ray_actors: Annotated[
        int, typer.Option(min=0, help="Processes on the cluster. Default: as many as its nodes have room for.")
    ] = 0,
    ray_cpus: Annotated[int, typer.Option(min=1, help="CPUs of each of them; with --device cuda a GPU each, too.")] = 1,
    protocol: ProtocolName = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    repository: RepositoryPath = Path("model_repository"),
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the most likely classes of every image of a source, a row each; what cannot be read is a row with an error.

    Example: resx predict resnet50 photos/ -o photos.parquet
    """
    from resx.cli.options.connection import address_of
    from resx.files.listing import skipped_words
    from resx.repository.versions import Repository
    from resx.scoring.in_process import DEVICES, find_model, load_onnxruntime
    from resx.scoring.on_ray import Pool, on_ray
    from resx.scoring.output import require_format
    from resx.scoring.parts import require_fresh
    from resx.scoring.run import InThisProcess, WantedParts, require_packages
    from resx.scoring.run import predict as run
    from resx.scoring.sources.finding import find_source
    from resx.scoring.through_server import find_served

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    _require_one_place(server=server, ray=ray, device=device, ray_options=bool(ray_actors or ray_cpus != 1))
    if not server and (protocol or ca or cert or key or header):
        raise UsageError("--protocol, --ca, --cert, --key, --header: say how to reach a server; give --server too")
    require_format(output, csv_safe=csv_safe)
    if ignore_times and not resume:
        raise UsageError("--ignore-times: says how to compare an earlier run's files; give --resume too")
    require_packages()
    out = Output(as_json=json, quiet=quiet)
    if require_fresh(output, resume=resume, overwrite=overwrite):
        done_before = f"{output}: finished already; removed what the earlier run left beside it"
        out.result(
            {"out": str(output), "finished_already": True},
            lambda console: console.print(done_before, markup=False, soft_wrap=True),
        )
        return
    found = find_source(source, column, images_from)
    asked, models = parse_name(name), Repository(repository)
    if server:
        where = address_of(server, protocol, models, ca=ca, cert=cert, key=key, headers=header)
        opened: Opened = contextlib.nullcontext(find_served(where, *asked, in_flight=in_flight, retries=retries))
    else:
        kind = choose("--device", device or "cpu", DEVICES)
        if ray:
            pool = Pool(address=ray, actors=ray_actors, cpus=ray_cpus, device=kind)
            opened = on_ray(find_model(models, *asked), pool, out.note)
        else:
            model = find_model(models, *asked)
            load_onnxruntime(kind)  # before the output is begun
            opened = contextlib.nullcontext(InThisProcess(model, kind))
    wanted = WantedParts(
        source=found,
        source_text=source,
        out=output,
        top=top,
        overwrite=overwrite,
        ignore_times=ignore_times,
        csv_safe=csv_safe,
    )
    with opened as engine:
        if skipped := skipped_words(found.skipped, found.hidden):
            out.note(f"Skipped {skipped}")
        if found.unwatched:
            out.note(f"{found.unwatched:,} remote files in the list: too many to ask for; changes in them go unnoticed")
        try:
            with _progress(out) as on_progress:
                done = run(engine, wanted, on_progress, out.note)
        except (KeyboardInterrupt, ServerError, MissingCapability):
            out.note(f"{output}: what is finished is kept; --resume goes on with it")
            raise
    payload = asdict(done) | {
        "images_per_s": done.images_per_s,
        "skipped": sum(found.skipped.values()),
        "skipped_files": found.skipped,
        "hidden": found.hidden,
        "out": str(output),
        "finished_already": False,
        "model": engine.model.name,
        "version": engine.model.version,
        "random_weights": engine.model.interface.has_random_weights,
    }

    def show(console: Console) -> None:
        resumed = f", {done.rows - done.scored_rows:,} of them by an earlier run" if done.resumed_parts else ""
        console.print(
            f"{output}: {done.rows:,} rows{resumed}, {done.errors:,} with an error; "
            f"{done.images_per_s:,.1f} images/s in {done.seconds:,.1f} s",
            markup=False,
            soft_wrap=True,
        )

    out.result(payload, show)
    random_weights.warn(out, engine.model.name, is_random=engine.model.interface.has_random_weights)
    if done.errors == done.rows:
        raise ResxError(f"{output}: all {done.rows:,} rows failed, the first with {done.first_error}")


def _require_one_place(*, server: str, ray: str, device: str, ray_options: bool) -> None:
    if server and ray:
        raise UsageError(f"--server, --ray {ray}: both say where to compute; give one")
    if server and device:
        raise UsageError(f"--server, --device {device}: the server computes where it was told to; leave one out")
    if ray_options and not ray:
        raise UsageError("--ray-actors, --ray-cpus: say how to use a cluster; give --ray too")


def parse_name(text: str) -> tuple[str, int | None]:
    """Return NAME and, if it is said, VERSION.

    Raises:
        UsageError: the version is no number.
    """
    name, colon, version = text.partition(":")
    if colon and not version.isdecimal():
        raise UsageError(f"{text}: give NAME or NAME:VERSION")
    return name, int(version) if colon else None


@contextlib.contextmanager
def _progress(out: Output) -> Iterator[Callable[[int, int], None]]:
    """Give a callback that moves a bar with rate and time left on a terminal; elsewhere it is silent."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        """Images per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.1f}/s" if task.speed else "")

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=out.quiet or not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        begun = False

        def on_progress(done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                # What was there before has no part in the rate.
                bar.reset(task, total=total, completed=done)
                begun = True
            else:
                bar.update(task, completed=done)

        yield on_progress
