"""`resx deploy`, `rollback`, `undeploy` and `gc`: which version is served, and which are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.commands import depth_family, fleet_deploy, render
from resx.cli.options.shared import Ca, Cert, Header, Json, Key, ProtocolName, Quiet, RepositoryPath, Url, finite
from resx.cli.output import Output, print_lines, table
from resx.cli.views import random_weights
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.deployment.deploy import Deployed, Manner

Name = Annotated[str, typer.Argument(help="A model of the repository.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="End if another command is deploying the model.")]

Urls = Annotated[
    str,
    typer.Option(
        metavar="URL[,URL...]",
        help="host:port of the server, or grpc://, grpcs://, http://, https:// and that; several are changed one after "
        "another, all or none. Default: the one that `resx serve` runs over the repository.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("deploy")(deploy)
    app.command("rollback")(rollback)
    app.command("undeploy")(undeploy)
    app.command("gc")(gc)


def deploy(
    context: typer.Context,
    name: Name,
    version: Annotated[int, typer.Option(min=0, help="0: the newest.")] = 0,
    trial: Annotated[
        float, typer.Option(min=0, callback=finite, help="Seconds to watch it with the version before at hand.")
    ] = 2.0,
    keep_previous: Annotated[
        bool, typer.Option("--keep-previous", help="Leave the version before loaded: rollback takes milliseconds.")
    ] = False,
    no_rehearsal: Annotated[
        bool, typer.Option("--no-rehearsal", help="Do not try it under another name first; its files are not sent.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show configuration and checks; change nothing.")] = False,
    best_under: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Of NAME's family the most accurate member that answers within 5ms, 0.005s, 800us on the server.",
        ),
    ] = None,
    no_wait: NoWait = False,
    repository: RepositoryPath = Path("model_repository"),
    url: Urls = "",
    protocol: ProtocolName = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    system: render.System = "",
    image: render.Image = "",
    replicas: render.Replicas = 2,
    gpu: render.Gpu = False,
    storage: render.Store = "",
    autoscaler: render.Scaler = "",
    monitor: render.Monitor = False,
    nodes: render.Nodes = 0,
    node_selector: render.NodeSelector = None,
    runtime_class: render.RuntimeClass = "",
    service_account: render.ServiceAccount = "",
    priority_class: render.PriorityClass = "",
    pull_secret: render.PullSecret = None,
    no_image_endpoint: render.NoImageEndpoint = False,
    folder: render.Folder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a version answer on a running server, if it answers as its card says; else the one before goes on.

    Examples: resx deploy densenet169; resx deploy digits --best-under 5ms; resx deploy digits --url a:8001,b:8001
    """
    from resx.repository.versions import Repository
    from resx.serving.deployment.deploy import Manner
    from resx.serving.deployment.deploy import deploy as deploy_model

    published, out = Repository(repository), Output(as_json=json, quiet=quiet)
    rendering = render.Rendering(
        system=system,
        image=image,
        replicas=replicas,
        gpu=gpu,
        storage=storage,
        autoscaler=autoscaler,
        monitor=monitor,
        nodes=nodes,
        node_selector=node_selector,
        runtime_class=runtime_class,
        service_account=service_account,
        priority_class=priority_class,
        pull_secret=pull_secret,
        no_image_endpoint=no_image_endpoint,
        folder=folder,
    )
    render.require_fitting(rendering, context)
    if system:
        render.render(published, name, version or None, rendering, out)
        return
    manner = Manner(rehearse=not no_rehearsal, trial_s=trial, keep_previous=keep_previous, wait=not no_wait)
    if best_under is not None:
        from resx.serving.deployment.best_under import candidates, parse_bound

        if "," in url:
            raise UsageError(f"--url {url}: --best-under measures one server; give one address")
        if version:
            raise UsageError(f"--version {version}: --best-under takes each member's newest; leave one of them out")
        bound_ms, members = parse_bound(best_under), candidates(published, name)
        address = _address(url, protocol, published, ca, cert, key, header)
        depth_family.deploy_best(address, published, members, bound_ms, manner, dry_run=dry_run, out=out)
        return
    published.version_folder(name, version or None)
    if "," in url:
        servers = fleet_deploy.members_of(
            url, published, lambda part: _address(part, protocol, published, ca, cert, key, header)
        )
        act = fleet_deploy.show_plans if dry_run else fleet_deploy.deploy_to_all
        act(servers, published, name, version or None, manner, out)
        return
    address = _address(url, protocol, published, ca, cert, key, header)
    if dry_run:
        _show_plan(out, address, published, name, version or None, manner)
        return
    done = _with_client(
        address,
        out,
        lambda client, step: deploy_model(client, published, name, version or None, manner=manner, on_step=step),
    )
    _say_deployed(out, address, done, published)


def rollback(
    name: Name,
    no_wait: NoWait = False,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: ProtocolName = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let the version answer that answered before the last `resx deploy`; again, and it goes forward.

    Example: resx rollback densenet169
    """
    from resx.repository.versions import Repository
    from resx.serving.deployment.deploy import Manner
    from resx.serving.deployment.rollback import rollback as roll_back

    published = Repository(repository)
    published.version_folder(name)
    address = _address(url, protocol, published, ca, cert, key, header)
    manner, out = Manner(wait=not no_wait), Output(as_json=json, quiet=quiet)
    done = _with_client(
        address, out, lambda client, step: roll_back(client, published, name, manner=manner, on_step=step)
    )
    _say_deployed(out, address, done, published)


def undeploy(
    name: Name,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: ProtocolName = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Unload a model with its image endpoint; accepted requests are answered, and its files stay.

    Example: resx undeploy densenet169
    """
    from resx.repository.versions import Repository
    from resx.serving.deployment.rollback import undeploy as take_away

    published = Repository(repository)
    address = _address(url, protocol, published, ca, cert, key, header)
    out = Output(as_json=json, quiet=quiet)
    versions = _with_client(address, out, lambda client, _step: take_away(client, published, name))
    gone = f"{name} version {', '.join(map(str, versions))} no longer answers on {address}"
    line = f"{gone}; `resx deploy {name}` brings it back"
    payload = {"name": name, "versions": versions, "url": str(address)}
    out.result(payload, lambda console: console.print(line, markup=False, soft_wrap=True))


def gc(
    name: Annotated[str, typer.Argument(help="A model. Default: all that `resx export` made.")] = "",
    keep: Annotated[int, typer.Option(help="Newest versions to keep of each model.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    url: Annotated[str, typer.Option(help="A further server over the repository; what it has loaded is kept.")] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete old versions from the repository; never one that is deployed, loaded, or that a rollback would go to.

    That holds for servers of other users and containers, too: they mark in the repository what they use.

    Example: resx gc --keep 3 --dry-run
    """
    import contextlib

    from resx.repository.skipped_folders import skipped_entries, skipped_lines
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.garbage_collection import Kept, collect
    from resx.serving.running.server_state import running_server

    spared: list[Kept] = []
    published, state = Repository(repository), running_server(Repository(repository))
    addresses = [_address(url, "", published, "", "", "", None)] if url else []
    addresses += [state.address("grpc")] if state else []
    with contextlib.ExitStack() as open_clients:
        clients = [open_clients.enter_context(TritonClient(address)) for address in addresses]
        old = collect(published, [name] if name else [], keep, clients=clients, dry_run=dry_run, on_kept=spared.append)
    payload: dict[str, Any] = {
        "dry_run": dry_run,
        "deleted": [{"name": one.name, "version": one.version, "size_bytes": one.size_bytes} for one in old],
        "kept": [{"name": one.name, "version": one.version, "reason": one.reason} for one in spared],
        "skipped": {} if name else skipped_entries(published),
    }
    rows = [[one.name, str(one.version), f"{one.size_bytes / 1e6:.1f}"] for one in old]
    total = f"{sum(one.size_bytes for one in old) / 1e6:.1f} MB {'would be' if dry_run else 'were'} deleted"
    lines = [f"{one.name} version {one.version} is kept: {one.reason}" for one in spared]
    lines += skipped_lines(payload["skipped"])

    def show(console: Console) -> None:
        console.print(table(total, ["model", "version", "MB"], rows) if rows else total)
        print_lines(console, lines)

    Output(as_json=json, quiet=quiet).result(payload, show)


def _address(
    url: str, protocol: str, repository: Repository, ca: str, cert: str, key: str, header: list[str] | None
) -> Address:
    from resx.cli.options.connection import address_of

    return address_of(url, protocol, repository, ca=ca, cert=cert, key=key, headers=header)


def _with_client(address: Address, out: Output, do: Callable[[Any, Callable[[str], None]], Any]) -> Any:
    from resx.serving.client.client import TritonClient

    with TritonClient(address) as client, out.steps() as step:
        return do(client, step)


def _say_deployed(out: Output, address: Address, done: Deployed, repository: Repository) -> None:
    is_random = done.checked and repository.card(done.name, done.version).source.is_random
    payload = {
        "name": done.name, "version": done.version, "previous": done.previous, "url": str(address),
        "canary_difference": done.canary_difference, "checked": done.checked, "previous_kept": done.kept,
        "random_weights": is_random,
    }  # fmt: skip
    before = f", version {done.previous} before" if done.previous and done.previous != done.version else ""
    proof = f"canary within {done.canary_difference:.1e}" if done.checked else "unchecked, as it has no card"
    kept = ", still loaded" if done.kept else ""
    line = f"{done.name} version {done.version} answers on {address}: {proof}{before}{kept}"
    out.result(payload, lambda console: console.print(line, markup=False, soft_wrap=True))
    random_weights.warn(out, done.name, is_random=is_random)


def _show_plan(
    out: Output, address: Address, repository: Repository, name: str, version: int | None, manner: Manner
) -> None:
    from resx.serving.deployment.dry_run import plan

    planned = _with_client(address, out, lambda client, _step: plan(client, repository, name, version, manner))
    payload = {
        "name": planned.name,
        "version": planned.version,
        "answering": planned.answering,
        "url": str(address),
        "diff": list(planned.diff),
        "checks": list(planned.checks),
    }
    answering = f"version {planned.answering} answers" if planned.answering else "it is not loaded"
    lines = [f"{name} version {planned.version} on {address}, where {answering}; nothing was changed"]
    lines += [f"  {number}. {check}" for number, check in enumerate(planned.checks, 1)]
    lines += planned.diff or ["configuration: as it is"]
    out.result(payload, lambda console: print_lines(console, lines))
