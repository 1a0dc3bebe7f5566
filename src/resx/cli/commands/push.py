"""`resx push`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.command_lines import command_line, typed_again
from resx.cli.completion import complete_thing
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done, show_next
from resx.cli.options.output import TableOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.versions import Pushed


def push(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="THING",
            help="A run's folder, or a published model: NAME or NAME:VERSION.",
            autocompletion=complete_thing,
        ),
    ],
    place: Annotated[str, typer.Argument(metavar="PLACE", help="hf:ORG/NAME, or a folder.")],
    printing: TableOptions,
    yes: Annotated[
        bool, typer.Option("--yes", metavar="", help="Send. Without it, only list what would be sent.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", metavar="", help="If the Hub's repository is new, make it private.")
    ] = False,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
) -> None:
    """Share a run or a published version on the Hugging Face Hub, with a model card made from its card.

    Examples: resx push digits hf:me/digits; resx push runs/digits hf:me/digits-run --private --yes
    """
    from resx.repository.sharing.places import parse_place
    from resx.repository.sharing.pushing import push as push_to
    from resx.repository.versions import Repository

    target, out = parse_place(place), printing.open()
    with out.steps() as step:
        found = push_to(
            thing, target, Repository(repository), named_place=place, send=yes, private=private, on_step=step
        )
    bundle = found.bundle
    payload: Pushed = {
        "kind": bundle.kind,
        "name": bundle.name,
        "place": place,
        "url": found.url,
        "sent": found.sent,
        "size_bytes": bundle.size_bytes,
        "files": [{"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in bundle.files],
    }

    def show(console: Console) -> None:
        size = f"{bundle.size_bytes / 1e6:.1f} MB"
        if found.sent:
            show_done(console, f"Pushed {bundle.title}", f"{len(bundle.files)} files", size, found.url)
            show_next(console, command_line("pull", place))
            return
        rows = [[file.name, f"{file.size_bytes:,}", file.sha256[:12]] for file in bundle.files]
        console.print(table(f"{bundle.title}: nothing was sent", ["file", "bytes", "sha256"], rows))
        seen = "" if not place.startswith("hf:") else ", private" if private else ", public if that is new (--private)"
        print_text(console, f"{size} would go to {found.url}{seen}")
        show_next(console, typed_again("--yes"))

    out.result(payload, show)
