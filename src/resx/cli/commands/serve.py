"""`resx serve`: the embedded Triton."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_model
from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.options.server import Native, PortOptions, RecoveryOptions, ServerDir, ServingDevice
from resx.cli.options.validation import choose
from resx.cli.output import Output, readers_may_leave
from resx.cli.views import random_weights
from resx.cli.views.ready_server import show_ready
from resx.errors import ResxError, UsageError

if TYPE_CHECKING:
    from resx.gpus import Wish
    from resx.repository.versions import Repository
    from resx.serving.deployment.deploy import Deployed
    from resx.serving.embedded.server_ports import Ports
    from resx.serving.running.server_state import ServerState
    from resx.serving.supervisor.policy import Policy


def serve(
    listening: PortOptions,
    recovery: RecoveryOptions,
    printing: OutputOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Models to load. A variant or a run's folder that is not in the repository is exported first. "
            "Default: all.",
            show_default=False,
        ),
    ] = None,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    load: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Same as NAME; repeatable.", autocompletion=complete_model),
    ] = None,
    load_none: Annotated[
        bool, typer.Option("--load-none", metavar="", help="Load no model; use `resx deploy`.")
    ] = False,
    device: ServingDevice = "auto",
    detach: Annotated[bool, typer.Option("--detach", metavar="", help="Return as soon as it is ready.")] = False,
    native: Native = None,
    server_dir: ServerDir = None,
) -> None:
    """Serve the repository's models with Triton on this machine. Ready once every model passes its self-test.

    Each model starts with the version that was deployed or rolled back to last, or else with its newest; one that was
    undeployed is left out.

    A model that crashes, hangs or gives a wrong answer is loaded again, or set aside; the other models keep
    serving. A server that dies or hangs is started again, on the same ports and with the same versions.

    Examples: resx serve --detach; resx serve resnet50
    """
    from resx.gpus import WISHES
    from resx.repository.versions import Repository
    from resx.serving.embedded.devices import require_tensorrt_for
    from resx.serving.embedded.model_runtime import require_servable
    from resx.serving.embedded.server_folder import require_server_folder
    from resx.serving.supervisor.detaching import serve_detached

    out = printing.open()
    ports = listening.ports()
    wish = choose("--device", device, WISHES)
    if load and load_none:
        raise UsageError("--load and --load-none: give one of them")
    if names and load_none:
        raise UsageError(f"{names[0]} and --load-none: give one of them")
    if not names and not repository.is_dir():
        raise UsageError(f"{repository}: no such model repository; create one with `resx export`, or set --repository")
    published = Repository(repository)
    published.require_text_path()
    for name in load or []:
        published.version_folder(name)
    if server_dir is not None and native is not None:
        raise UsageError("--native and --isolated apply to resx's own server; remove them with --server-dir")
    where = str(require_server_folder(server_dir)[0]) if server_dir is not None else ""
    asked = _bring(out, published, names or [], detach=detach)
    models = [] if load_none else list(dict.fromkeys((*(load or ()), *asked))) or None
    _say_what_is_missing(out, published, asked=native, server_dir=where)
    _say_whose_int8_is_asked_again(out, published)
    warn_of_replanning(out, published, models, wish, asked=native, server_dir=where)
    if server_dir is None:
        require_servable(published, models, wish)
        require_tensorrt_for([repository / name for name in (published.names() if models is None else models)], wish)
    if detach:
        wanted = ["--load-none"] if load_none else [f"--load={name}" for name in models or []]
        wanted += [*recovery.arguments(), f"--device={wish}", *_server_arguments(native, where)]
        with out.steps() as step:
            step("start the server, load the models and run their self-tests")
            state = serve_detached(published, ports, wanted)
        show_ready(out, published, state, [], [], asked)
        _warn_of_random_weights(out, published, asked)
        return
    _serve_here(
        out, published, ports, models, recovery.policy(), asked=asked, native=native, wish=wish, server_dir=where
    )


def _bring(out: Output, repository: Repository, texts: list[str], *, detach: bool) -> list[str]:
    """Return the names of the models that are asked for; those that are missing are exported first."""
    from resx.cli.steps.served_names import begin_anew, export_missing, find_served_name
    from resx.serving.running.server_state import running_server, served_already

    found = [find_served_name(repository, text) for text in texts]
    missing = [(name, source) for name, source in found if source]
    if missing and (state := running_server(repository)):
        raise served_already(repository, state)
    for name, source in missing:
        export_missing(out, repository, name, source)
    if missing and not detach and not any(source for _, source in (find_served_name(repository, one) for one in texts)):
        begin_anew()
    return [name for name, _ in found]


def _warn_of_random_weights(out: Output, repository: Repository, names: list[str]) -> None:
    for name in names:
        newest = repository.versions(name)[-1]
        is_random = repository.has_card(name, newest) and repository.card(name, newest).source.is_random
        random_weights.warn(out, name, is_random=is_random)


def _server_arguments(native: bool | None, server_dir: str) -> list[str]:
    from resx.serving.embedded.installation.python_stub import computes_natively

    if server_dir:
        return [f"--server-dir={server_dir}"]
    return ["--native" if computes_natively(native) else "--isolated"]


def _say_what_is_missing(out: Output, repository: Repository, *, asked: bool | None, server_dir: str) -> None:
    """Say which models are computed in another way than asked, and which image endpoints are not served."""
    from resx.serving.embedded.model_runtime import is_openvino
    from resx.serving.embedded.server_backends import missing_python

    reason = missing_python(server_dir)
    if asked and not reason:
        for name in filter(lambda name: is_openvino(repository.root / name), repository.names()):
            out.note(
                f"{name} runs in its own process: --native supports onnxruntime only, and this model uses OpenVINO"
            )
    if asked is False or not reason:
        return
    if asked is None and not server_dir:
        out.note(f"Models are computed in the server (--native): {reason}")
    why = f": {reason}" if server_dir else ""
    for name in repository.names():
        for endpoint in repository.endpoints(name):
            out.note(f"{endpoint} is not served: it needs Python inside the server{why}")


def warn_of_replanning(
    out: Output, repository: Repository, models: list[str] | None, wish: Wish, *, asked: bool | None, server_dir: str
) -> None:
    """Say which models a server of one session for all batch sizes slows down on the GPU."""
    from resx.serving.embedded.devices import find_replanned
    from resx.serving.embedded.installation.python_stub import computes_natively

    if not server_dir and not computes_natively(asked):
        return
    names = repository.names() if models is None else models
    for name in find_replanned([repository.root / name for name in names], wish):
        remedy = "" if server_dir or not asked else "serve without --native, or "
        out.note(
            f"warning: {name}: on the GPU, this server plans convolutions again whenever the batch size changes (up to "
            f"a second each time); {remedy}export with --accelerator tensorrt"
        )


def _say_whose_int8_is_asked_again(out: Output, repository: Repository) -> None:
    from resx.machine import instruction_set
    from resx.serving.embedded.int8_versions import find_foreign_int8

    for name, version, _card, verified in find_foreign_int8(repository, instruction_set()):
        out.note(f"{name} version {version}: int8 {verified}; checked again before it is served")


def _serve_here(
    out: Output,
    repository: Repository,
    ports: Ports,
    models: list[str] | None,
    policy: Policy,
    *,
    asked: list[str],
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
                show_ready(out, repository, state, deployed, errors, asked)
                _warn_of_random_weights(out, repository, asked)
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
