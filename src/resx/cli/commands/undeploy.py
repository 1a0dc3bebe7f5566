"""`resx undeploy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.options.connection import Connection
from resx.cli.options.deployment import DeployedName
from resx.cli.options.output import OutputOptions

if TYPE_CHECKING:
    from resx.cli.results.servers import Undeployed


def undeploy(name: DeployedName, server: Connection, printing: OutputOptions) -> None:
    """Unload a model with its image endpoint; accepted requests are answered, and its files stay.

    Example: resx undeploy densenet169
    """
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.rollback import undeploy as take_away

    address = server.address()
    with TritonClient(address) as client:
        versions = take_away(client, Repository(server.repository), name)
    gone = f"{name} version {', '.join(map(str, versions))} is no longer served on {address}"
    line = f"{gone}; `resx deploy {name}` loads it again"
    payload: Undeployed = {"name": name, "versions": versions, "url": str(address)}
    printing.open().result(payload, lambda console: console.print(line, markup=False, soft_wrap=True))
