"""A server that is ready: where it listens, and what it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resx.cli.command_lines import command_line, in_repository
from resx.cli.marks import show_done, show_next
from resx.cli.output import Output, print_lines
from resx.machine import cpu_quota, quota_note
from resx.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.servers import Ready
    from resx.errors import ResxError
    from resx.repository.versions import Repository
    from resx.serving.deployment.deploy import Deployed
    from resx.serving.running.server_state import ServerState

UNGUARDED = "without the guard on requests of resx's own server (docs/security.md)"


def show_ready(
    out: Output,
    repository: Repository,
    state: ServerState,
    deployed: list[Deployed],
    errors: list[ResxError],
    asked: Sequence[str] = (),
) -> None:
    """Print where the server answers and what, which models it does not serve, and how to ask those that were named."""
    from resx.repository.skipped_folders import skipped_entries, skipped_lines
    from resx.serving.client.client import TritonClient

    for error in errors:
        out.note(f"warning: not loaded: {error}")
    with TritonClient(state.address("grpc"), timeout_s=10) as client:
        ready = client.model_versions()
    names = set(repository.names())
    missing = sorted(names - set(ready))
    newest = {name: repository.versions(name)[-1] for name in names & ready.keys()}
    newer = {name: version for name, version in newest.items() if version > ready[name][-1]}
    payload: Ready = {
        "http": f"127.0.0.1:{state.http_port}", "grpc": f"127.0.0.1:{state.grpc_port}",
        "metrics": f"127.0.0.1:{state.metrics_port}", "pid": state.pid, "log": state.log,
        "models": ready, "not_loaded": missing, "newer": newer, "skipped": skipped_entries(repository),
        "cpu_quota": cpu_quota(), "server_dir": state.server_dir or None,
    }  # fmt: skip
    differences = {
        entry.name: f", self-test passed (error {entry.canary_difference:.0e})"
        if entry.checked
        else ", not checked: it has no card"
        for entry in deployed
    }
    lines = [f"  metrics: {metrics_url(state.metrics_port)}"]
    lines += [f"  {_of_folder(state)}"] if state.server_dir else []
    lines += [f"  {name} version {versions[-1]}{differences.get(name, '')}" for name, versions in ready.items()]
    lines += [f"  {name} version {version} is newer: resx deploy {name}" for name, version in newer.items()]
    aside = {name: why for name, why in state.set_aside.items() if name not in ready}
    lines += [f"  {name} is not loaded: resx deploy {name}" for name in map(one_line, missing) if name not in aside]
    lines += [f"  {name} is set aside: {why.removeprefix(f'{name}: ')}" for name, why in aside.items()]
    lines += [f"  {line}" for line in skipped_lines(skipped_entries(repository))]
    lines += [f"  {note}"] if (note := quota_note()) else []

    def show(console: Console) -> None:
        http, grpc = f"http://127.0.0.1:{state.http_port}", f"grpc://127.0.0.1:{state.grpc_port}"
        show_done(console, f"Ready: {http}", grpc, f"process {state.pid}")
        print_lines(console, lines)
        place = in_repository(repository.root)
        print_lines(console, [f"Ask:  {command_line('query', name, 'photo.jpg', *place)}" for name in asked])
        if measurable := [name for name in (*asked, *ready) if name in ready and name in repository.names()]:
            show_next(console, command_line("bench", measurable[0], *place))

    out.result(payload, show)


def metrics_url(port: int) -> str:
    """Return where a server exports its metrics for Prometheus."""
    return f"http://127.0.0.1:{port}/metrics"


def _of_folder(state: ServerState) -> str:
    return f"Triton {state.server_version} of {state.server_dir}: {UNGUARDED}"
