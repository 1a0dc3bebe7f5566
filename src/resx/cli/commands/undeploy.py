"""`resx undeploy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.marks import show_done, show_next
from resx.cli.options.connection import Connection
from resx.cli.options.deployment import DeployedName
from resx.cli.options.output import OutputOptions

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.servers import Undeployed


def undeploy(name: DeployedName, server: Connection, printing: OutputOptions) -> None:
    """Unload a served model with its image endpoint; accepted requests are answered, and its files stay.

    Example: resx undeploy densenet169
    """
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.rollback import undeploy as take_away

    address = server.address()
    with TritonClient(address) as client:
        versions = take_away(client, Repository(server.repository), name)
    payload: Undeployed = {"name": name, "versions": versions, "url": str(address)}
    gone = f"Unloaded {name} {', '.join(f'v{version}' for version in versions)}"

    def show(console: Console) -> None:
        show_done(console, gone, f"no longer served on {address}", "its files stay")
        show_next(console, server.command("deploy", name))

    printing.open().result(payload, show)
