"""`resx stop`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath

if TYPE_CHECKING:
    from resx.cli.results.servers import Stopped


def stop(printing: OutputOptions, repository: RepositoryPath = DEFAULT_REPOSITORY) -> None:
    """Stop the server of this repository, if one runs; requests that it accepted are answered first.

    Example: resx stop
    """
    from resx.repository.versions import Repository
    from resx.serving.supervisor.detaching import stop as stop_server

    ended = stop_server(Repository(repository))
    line = f"stopped process {ended.pid}" if ended else f"{repository}: no server is running"
    payload: Stopped = {"stopped": ended.pid if ended else None}
    printing.open().result(payload, lambda console: console.print(line, markup=False, soft_wrap=True))
