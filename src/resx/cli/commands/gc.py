"""`resx gc`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_model
from resx.cli.marks import show_next
from resx.cli.options.connection import Connection
from resx.cli.options.output import DryRun, TableOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.output import print_lines, table
from resx.cli.views.next_step import to_apply

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.versions import Collected


def gc(
    printing: TableOptions,
    name: Annotated[
        str, typer.Argument(help="A model. Default: all that `resx export` made.", autocompletion=complete_model)
    ] = "",
    keep: Annotated[int, typer.Option(metavar="N", help="Newest versions to keep of each model.")] = 3,
    dry_run: DryRun = False,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    url: Annotated[
        str,
        typer.Option(metavar="URL", help=("Another server that uses the repository; versions it has loaded are kept.")),
    ] = "",
) -> None:
    """Delete old versions of published models; never one that is in use, or that a rollback would go to.

    Servers of other users and in containers count too: they mark the versions that they use in the repository.

    Example: resx gc --keep 3 --dry-run
    """
    from resx.repository.skipped_folders import skipped_entries, skipped_lines
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.garbage_collection import Kept, collect
    from resx.serving.running.server_state import running_server

    spared: list[Kept] = []
    published, state = Repository(repository), running_server(Repository(repository))
    addresses = [Connection(repository=repository, url=url).address()] if url else []
    addresses += [state.address("grpc")] if state else []
    with contextlib.ExitStack() as open_clients:
        clients = [open_clients.enter_context(TritonClient(address)) for address in addresses]
        old = collect(published, [name] if name else [], keep, clients=clients, dry_run=dry_run, on_kept=spared.append)
    payload: Collected = {
        "dry_run": dry_run,
        "deleted": [{"name": one.name, "version": one.version, "size_bytes": one.size_bytes} for one in old],
        "kept": [{"name": one.name, "version": one.version, "reason": one.reason} for one in spared],
        "skipped": {} if name else skipped_entries(published),
    }
    rows = [[one.name, str(one.version), f"{one.size_bytes / 1e6:.1f}"] for one in old]
    size = f"{sum(one.size_bytes for one in old) / 1e6:.1f} MB"
    total = f"{size} {'would be' if dry_run else 'were'} deleted" if old else _nothing(keep)
    lines = [f"Kept {one.name} version {one.version}: {one.reason}" for one in spared]
    lines += skipped_lines(payload["skipped"])

    def show(console: Console) -> None:
        console.print(table(total, ["model", "version", "MB"], rows) if rows else total)
        print_lines(console, lines)
        if dry_run and old:
            show_next(console, to_apply())

    printing.open().result(payload, show)


def _nothing(keep: int) -> str:
    newest = "the newest version is" if keep == 1 else f"the {keep} newest versions are"
    return f"Nothing to delete: {newest} kept, and versions that a server or a rollback needs"
