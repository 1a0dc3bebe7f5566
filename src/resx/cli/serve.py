"""`resx serve`, `resx stop`, `resx status`: the embedded Triton."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options import Json, ProtocolName, Quiet, RepositoryPath, Url
from resx.cli.output import Output, table
from resx.errors import ResxError, UsageError

if TYPE_CHECKING:
    from resx.serving.deploy import Deployed
    from resx.serving.repository import Repository
    from resx.serving.supervisor import ServerState


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("serve")(serve)
    app.command("stop")(stop)
    app.command("status")(status)


def serve(
    repository: RepositoryPath = Path("model_repository"),
    load: Annotated[list[str] | None, typer.Option(help="A model to load, once per model. Default: all.")] = None,
    load_none: Annotated[bool, typer.Option("--load-none", help="Load no model; `resx deploy` does.")] = False,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8002,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as it is ready.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the repository on loopback; ready means that every model answered as its card says.

    Example: resx serve --detach
    """
    from resx.serving.embedded import Ports
    from resx.serving.repository import Repository
    from resx.serving.supervisor import serve as run
    from resx.serving.supervisor import serve_detached

    out = Output(as_json=json, quiet=quiet)
    if load and load_none:
        raise UsageError("--load and --load-none: give one of them")
    if not repository.is_dir():
        raise UsageError(f"{repository}: no such model repository; `resx export` makes one, --repository names another")
    published = Repository(repository)
    models = [] if load_none else (load or published.names())
    for name in models:
        published.version_folder(name)
    ports = Ports(http=http_port, grpc=grpc_port, metrics=metrics_port)
    if detach:
        wanted = ["--load-none"] if load_none else [f"--load={name}" for name in load or []]
        with out.steps() as step:
            step("start the server, load the models and check their answers")
            state = serve_detached(published, ports, wanted)
        _say_ready(out, published, state, [], [])
        return
    with out.steps() as step:
        run(
            published, ports, models, on_step=step,
            on_ready=lambda state, deployed, errors: _say_ready(out, published, state, deployed, errors),
        )  # fmt: skip


def stop(repository: RepositoryPath = Path("model_repository"), json: Json = False) -> None:
    """Stop the server of this repository; running requests finish first.

    Example: resx stop
    """
    from resx.serving.repository import Repository
    from resx.serving.supervisor import stop as stop_server

    state = stop_server(Repository(repository))
    Output(as_json=json, quiet=True).result(
        {"stopped": state.pid}, lambda console: console.print(f"stopped process {state.pid}")
    )


def status(
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: ProtocolName = "",
    json: Json = False,
) -> None:
    """Show whether a server runs, and each model's versions and requests.

    Example: resx status
    """
    from resx.cli.connection import address_of
    from resx.serving.client import TritonClient
    from resx.serving.repository import Repository
    from resx.serving.supervisor import running_server

    published = Repository(repository)
    address = address_of(url, protocol, published)
    with TritonClient(address, timeout_s=10) as client:
        version = client.server_version()
        models = [_model_status(client, name, versions) for name, versions in client.model_versions().items()]
    state = None if url else running_server(published)
    payload: dict[str, Any] = {"url": str(address), "triton": version, "models": models}
    if state:
        payload |= {"pid": state.pid, "uptime_s": round(time.time() - state.started, 1), "log": state.log}
    rows = [
        [model["name"], ", ".join(map(str, model["versions"])), str(model["requests"]), str(model["failed"])]
        for model in models
    ]
    title = f"{address}  Triton {version}" + (f"  process {state.pid}, log {state.log}" if state else "")
    Output(as_json=json, quiet=True).result(
        payload,
        lambda console: console.print(
            title, table("", ["model", "ready versions", "requests", "failed"], rows, left=2)
        ),
    )


def _model_status(client: Any, name: str, versions: list[int]) -> dict[str, Any]:
    statistics = client.statistics(name)
    count = {
        outcome: sum(int(entry["inference_stats"].get(outcome, {}).get("count", 0)) for entry in statistics)
        for outcome in ("success", "fail")
    }
    return {"name": name, "versions": versions, "requests": count["success"], "failed": count["fail"]}


def _say_ready(
    out: Output, repository: Repository, state: ServerState, deployed: list[Deployed], errors: list[ResxError]
) -> None:
    from resx.serving.client import TritonClient

    for error in errors:
        out.note(f"not loaded: {error}")
    with TritonClient(state.address("grpc"), timeout_s=10) as client:
        ready = client.model_versions()
    missing = sorted(set(repository.names()) - set(ready))
    payload = {
        "http": f"127.0.0.1:{state.http_port}", "grpc": f"127.0.0.1:{state.grpc_port}",
        "metrics": f"127.0.0.1:{state.metrics_port}", "pid": state.pid, "log": state.log,
        "models": ready, "not_loaded": missing,
    }  # fmt: skip
    differences = {
        entry.name: f", canary within {entry.canary_difference:.1e}" if entry.checked else ", unchecked: it has no card"
        for entry in deployed
    }
    lines = [f"ready: http://127.0.0.1:{state.http_port}  grpc://127.0.0.1:{state.grpc_port}  (process {state.pid})"]
    lines += [f"  {name} version {versions[-1]}{differences.get(name, '')}" for name, versions in ready.items()]
    lines += [f"  {name} is not loaded: resx deploy {name}" for name in missing]
    out.result(payload, lambda console: console.print("\n".join(lines), markup=False, soft_wrap=True))
