"""`resx stop`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done
from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.servers import Stopped


def stop(printing: OutputOptions, repository: RepositoryPath = DEFAULT_REPOSITORY) -> None:
    """Stop the repository's server; requests that it accepted are answered first.

    Example: resx stop
    """
    from resx.repository.versions import Repository
    from resx.serving.supervisor.detaching import stop as stop_server

    ended = stop_server(Repository(repository))

    def show(console: Console) -> None:
        if ended:
            show_done(console, f"Stopped the server of {repository}", f"process {ended.pid}")
        else:
            print_text(console, f"{repository}: no server is running")

    payload: Stopped = {"stopped": ended.pid if ended else None}
    printing.open().result(payload, show)
