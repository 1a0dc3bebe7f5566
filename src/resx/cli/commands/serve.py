"""`resx serve` and `resx stop`: the embedded Triton."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.commands.status import UNGUARDED
from resx.cli.options.shared import Json, Quiet, RepositoryPath, choose, finite
from resx.cli.output import Output, print_lines, readers_may_leave
from resx.errors import ResxError, UsageError
from resx.machine import cpu_quota, quota_note
from resx.text import one_line

if TYPE_CHECKING:
    from resx.gpus import Wish
    from resx.repository.versions import Repository
    from resx.serving.deployment.deploy import Deployed
    from resx.serving.embedded.server_ports import Ports
    from resx.serving.running.server_state import ServerState
    from resx.serving.supervisor.policy import Policy


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("serve")(serve)
    app.command("stop")(stop)


def serve(
    repository: RepositoryPath = Path("model_repository"),
    load: Annotated[list[str] | None, typer.Option(help="A model to load, once per model. Default: all.")] = None,
    load_none: Annotated[bool, typer.Option("--load-none", help="Load no model; `resx deploy` does.")] = False,
    host: Annotated[
        str, typer.Option(help="127.0.0.1 and nothing else; docs/security.md has what reaches further.")
    ] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8002,
    native: Annotated[
        bool | None,
        typer.Option(
            "--native/--isolated",
            help="Compute in the server itself: about 20 % faster for small models; a crash stops the whole server. "
            "Compiled at first use. Default: isolated, where Triton can run this Python.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu or gpu. auto: the GPU where there is one, and an error if it cannot be used.")
    ] = "auto",
    server_dir: Annotated[
        Path | None,
        typer.Option(
            help="Serve with another Triton's files, laid out as in NVIDIA's container: bin/, backends/, lib/. "
            "Default: resx's own.",
            show_default=False,
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as it is ready.")] = False,
    exit_timeout: Annotated[int, typer.Option(min=1, help="Seconds to answer what was accepted, at the end.")] = 10,
    tries: Annotated[
        int, typer.Option(min=1, help="Failed recoveries before a model is set aside, or the server ends.")
    ] = 5,
    canary_timeout: Annotated[
        float,
        typer.Option(min=1, callback=finite, help="Seconds in which a model that is asked must finish something."),
    ] = 10.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the repository on loopback; ready means that every model answered as its card says.

    Each model starts with the version that was deployed or rolled back to last, or else with its newest; one that was
    undeployed is left out.

    A model that crashes, hangs or gives a wrong answer is loaded again, or set aside; the other models are served
    on. A server that dies or hangs is started again, on the same ports and with the same versions.

    Example: resx serve --detach
    """
    from resx.gpus import WISHES
    from resx.repository.versions import Repository
    from resx.serving.embedded.devices import require_tensorrt_for
    from resx.serving.embedded.engine_runtime import require_servable
    from resx.serving.embedded.server_folder import require_server_folder
    from resx.serving.embedded.server_ports import Ports, require_loopback
    from resx.serving.supervisor.detaching import serve_detached
    from resx.serving.supervisor.policy import Policy

    out = Output(as_json=json, quiet=quiet)
    require_loopback(host)
    wish = choose("--device", device, WISHES)
    if load and load_none:
        raise UsageError("--load and --load-none: give one of them")
    if not repository.is_dir():
        raise UsageError(f"{repository}: no such model repository; `resx export` makes one, --repository names another")
    published = Repository(repository)
    published.require_text_path()
    models = [] if load_none else load or None
    for name in models or []:
        published.version_folder(name)
    if server_dir is not None and native is not None:
        raise UsageError("--native and --isolated say how resx's own server computes; leave them out with --server-dir")
    where = str(require_server_folder(server_dir)[0]) if server_dir is not None else ""
    _say_what_is_missing(out, published, asked=native, server_dir=where)
    if server_dir is None:
        require_servable(published, models, wish)
        require_tensorrt_for([repository / name for name in (published.names() if models is None else models)], wish)
    policy = Policy(exit_timeout_s=exit_timeout, max_tries=tries, canary_timeout_s=canary_timeout)
    ports = Ports(http=http_port, grpc=grpc_port, metrics=metrics_port)
    if detach:
        wanted = ["--load-none"] if load_none else [f"--load={name}" for name in load or []]
        wanted += [f"--exit-timeout={exit_timeout}", f"--tries={tries}", f"--canary-timeout={canary_timeout}"]
        wanted += [f"--device={wish}", *_server_arguments(native, where)]
        with out.steps() as step:
            step("start the server, load the models and check their answers")
            state = serve_detached(published, ports, wanted)
        _say_ready(out, published, state, [], [])
        return
    _serve_here(out, published, ports, models, policy, native=native, wish=wish, server_dir=where)


def _server_arguments(native: bool | None, server_dir: str) -> list[str]:
    from resx.serving.embedded.python_stub import computes_natively

    if server_dir:
        return [f"--server-dir={server_dir}"]
    return ["--native" if computes_natively(native) else "--isolated"]


def _say_what_is_missing(out: Output, repository: Repository, *, asked: bool | None, server_dir: str) -> None:
    """Say what a server without Python inside does otherwise, and which image endpoints it goes without."""
    from resx.serving.embedded.server_backends import missing_python

    if asked is False or not (reason := missing_python(server_dir)):
        return
    if asked is None and not server_dir:
        out.note(f"Models are computed in the server (--native): {reason}")
    why = f": {reason}" if server_dir else ""
    for name in repository.names():
        for endpoint in repository.endpoints(name):
            out.note(f"{endpoint} is not served: it needs Python inside the server{why}")


def _serve_here(
    out: Output,
    repository: Repository,
    ports: Ports,
    models: list[str] | None,
    policy: Policy,
    *,
    native: bool | None,
    wish: Wish,
    server_dir: str,
) -> None:
    """Serve until a signal comes: steps with their times until it is ready, then one line for whatever happens."""
    from resx.serving.supervisor.supervisor import serve as run

    with readers_may_leave(), contextlib.ExitStack() as starting:
        begin = starting.enter_context(out.steps())
        is_ready = False

        def tell(text: str) -> None:
            with readers_may_leave():
                (out.note if is_ready else begin)(text)

        def say_ready(state: ServerState, deployed: list[Deployed], errors: list[ResxError]) -> None:
            nonlocal is_ready
            with readers_may_leave():
                starting.close()
            is_ready = True
            with readers_may_leave():
                _say_ready(out, repository, state, deployed, errors)
            tell("Serving. Ctrl-C to stop.")

        run(
            repository,
            ports,
            models,
            policy=policy,
            native=native,
            device=wish,
            server_dir=server_dir,
            on_step=tell,
            on_ready=say_ready,
        )


def stop(repository: RepositoryPath = Path("model_repository"), json: Json = False, quiet: Quiet = False) -> None:
    """Stop the server of this repository, if one runs; requests that it accepted are answered first.

    Example: resx stop
    """
    from resx.repository.versions import Repository
    from resx.serving.supervisor.detaching import stop as stop_server

    ended = stop_server(Repository(repository))
    line = f"stopped process {ended.pid}" if ended else f"{repository}: no server is running"
    Output(as_json=json, quiet=quiet).result(
        {"stopped": ended.pid if ended else None},
        lambda console: console.print(line, markup=False, soft_wrap=True),
    )


def _say_ready(
    out: Output, repository: Repository, state: ServerState, deployed: list[Deployed], errors: list[ResxError]
) -> None:
    from resx.repository.skipped_folders import skipped_entries, skipped_lines
    from resx.serving.client.client import TritonClient

    for error in errors:
        out.note(f"not loaded: {error}")
    with TritonClient(state.address("grpc"), timeout_s=10) as client:
        ready = client.model_versions()
    names = set(repository.names())
    missing = sorted(names - set(ready))
    newest = {name: repository.versions(name)[-1] for name in names & ready.keys()}
    newer = {name: version for name, version in newest.items() if version > ready[name][-1]}
    payload = {
        "http": f"127.0.0.1:{state.http_port}", "grpc": f"127.0.0.1:{state.grpc_port}",
        "metrics": f"127.0.0.1:{state.metrics_port}", "pid": state.pid, "log": state.log,
        "models": ready, "not_loaded": missing, "newer": newer, "skipped": skipped_entries(repository),
        "cpu_quota": cpu_quota(), "server_dir": state.server_dir or None,
    }  # fmt: skip
    differences = {
        entry.name: f", canary within {entry.canary_difference:.1e}" if entry.checked else ", unchecked: it has no card"
        for entry in deployed
    }
    lines = [f"ready: http://127.0.0.1:{state.http_port}  grpc://127.0.0.1:{state.grpc_port}  (process {state.pid})"]
    lines += [f"  {_of_folder(state)}"] if state.server_dir else []
    lines += [f"  {name} version {versions[-1]}{differences.get(name, '')}" for name, versions in ready.items()]
    lines += [f"  {name} version {version} is newer: resx deploy {name}" for name, version in newer.items()]
    aside = {name: why for name, why in state.set_aside.items() if name not in ready}
    lines += [f"  {name} is not loaded: resx deploy {name}" for name in map(one_line, missing) if name not in aside]
    lines += [f"  {name} is set aside: {why.removeprefix(f'{name}: ')}" for name, why in aside.items()]
    lines += [f"  {line}" for line in skipped_lines(skipped_entries(repository))]
    lines += [f"  {note}"] if (note := quota_note()) else []
    out.result(payload, lambda console: print_lines(console, lines))


def _of_folder(state: ServerState) -> str:
    return f"Triton {state.server_version} of {state.server_dir}: {UNGUARDED}"
