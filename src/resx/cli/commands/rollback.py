"""`resx rollback`."""

from __future__ import annotations

from resx.cli.options.connection import Connection
from resx.cli.options.deployment import DeployedName, NoWait
from resx.cli.options.output import OutputOptions
from resx.cli.views.deployment import show_deployed


def rollback(name: DeployedName, server: Connection, printing: OutputOptions, no_wait: NoWait = False) -> None:
    """Return a served model to its previous version. Repeat to undo.

    Example: resx rollback densenet169
    """
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.deploy import Manner
    from resx.serving.deployment.rollback import rollback as roll_back

    published, out = Repository(server.repository), printing.open()
    published.version_folder(name)
    address = server.address()
    with TritonClient(address) as client, out.steps() as step:
        done = roll_back(client, published, name, manner=Manner(wait=not no_wait), on_step=step)
    show_deployed(out, address, done, published, next_step=server.command("status"), verb="Rolled back to")
