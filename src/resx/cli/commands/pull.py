"""`resx pull`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.command_lines import command_line
from resx.cli.marks import show_done, show_next
from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.views.next_step import to_serve

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.versions import Pulled


def pull(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="hf:ORG/NAME, hf:ORG/NAME@REVISION, or a folder.")],
    printing: OutputOptions,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the model or run here. Default: its own.")] = "",
    repository: RepositoryPath = DEFAULT_REPOSITORY,
) -> None:
    """Fetch what `resx push` shared: a version into the repository, a run into runs/NAME. Every hash is checked.

    Only data is fetched, never code; the server's configuration is written anew from the card.

    Example: resx pull hf:me/digits --name theirs
    """
    from resx.repository.sharing.places import parse_place
    from resx.repository.sharing.pulling import pull as pull_from
    from resx.repository.versions import Repository

    source, published, out = parse_place(place), Repository(repository), printing.open()
    with out.steps() as step:
        found = pull_from(source, published, name=name, on_step=step)
    payload: Pulled = {
        "kind": found.kind,
        "name": found.name,
        "version": found.version,
        "folder": str(found.folder),
        "place": place,
        "files": list(found.files),
    }

    def show(console: Console) -> None:
        title = f"run {found.name}" if found.version is None else f"{found.name} v{found.version}"
        count = len(found.files)
        show_done(console, f"Pulled {title}", f"{count} file{'s' * (count > 1)} with the right hash", str(found.folder))
        is_run = found.version is None
        show_next(console, command_line("export", found.folder) if is_run else to_serve(found.name, published))

    out.result(payload, show)
