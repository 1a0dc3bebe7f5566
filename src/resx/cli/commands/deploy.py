"""`resx deploy`."""

from __future__ import annotations

import typer

from resx.cli.options.connection import FleetConnection
from resx.cli.options.deployment import BestUnder, DeployedName, DeployOptions
from resx.cli.options.grouping import typed_options
from resx.cli.options.manifests import ManifestOptions
from resx.cli.options.output import DryRun, TableOptions
from resx.cli.options.repository import Version
from resx.cli.steps import depth_family, fleet_rollout, manifests
from resx.cli.views.deployment import show_deployed, show_plan
from resx.cli.views.next_step import to_apply
from resx.errors import UsageError


def deploy(
    context: typer.Context,
    name: DeployedName,
    version: Version = 0,
    best_under: BestUnder = None,
    dry_run: DryRun = False,
    *,
    how: DeployOptions,
    server: FleetConnection,
    printing: TableOptions,
    rendering: ManifestOptions,
) -> None:
    """Switch a served model to a new version. If its self-test fails, the old one keeps serving.

    Examples: resx deploy densenet169; resx deploy digits --best-under 5ms; resx deploy digits --url a:8001,b:8001
    """
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment import dry_run as rehearsal
    from resx.serving.deployment.deploy import deploy as deploy_model

    published, out, manner = Repository(server.repository), printing.open(), how.manner()
    rendering.require_fitting(typed_options(context))
    if rendering.system:
        manifests.render(published, name, version or None, rendering, out)
        return
    if best_under is not None:
        from resx.serving.deployment.best_under import family_members, parse_bound

        if "," in server.url:
            raise UsageError(f"--url {server.url}: --best-under measures one server; give a single address")
        if version:
            raise UsageError(
                f"--version {version}: --best-under uses each model's newest version; remove one of the two"
            )
        bound_ms, members = parse_bound(best_under), family_members(published, name)
        next_step = to_apply() if dry_run else server.command("status")
        depth_family.deploy_best(
            server.address(), published, members, bound_ms, manner, dry_run=dry_run, next_step=next_step, out=out
        )
        return
    published.version_folder(name, version or None)
    if "," in server.url:
        servers = fleet_rollout.members_of(server, published)
        act = fleet_rollout.show_plans if dry_run else fleet_rollout.deploy_to_all
        act(servers, published, name, version or None, manner, out)
        return
    address = server.address()
    with TritonClient(address) as client, out.steps() as step:
        if dry_run:
            planned = rehearsal.plan(client, published, name, version or None, manner)
        else:
            done = deploy_model(client, published, name, version or None, manner=manner, on_step=step)
    if dry_run:
        show_plan(out, address, planned)
    else:
        show_deployed(out, address, done, published, next_step=server.command("status"))
