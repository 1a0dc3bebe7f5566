"""`resx status`: how a server fares."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.options.connection import Connection
from resx.cli.options.output import TableOptions
from resx.cli.views.ready_server import metrics_url
from resx.cli.views.server_status import show_status
from resx.errors import MissingCapability, ResxError

if TYPE_CHECKING:
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.running.server_state import ServerState


def status(server: Connection, printing: TableOptions) -> None:
    """Show whether a server runs, and each model's versions, requests, latency and restarts.

    On a server of `resx serve`, requests are counted since the model was deployed, without resx's self-tests. p50 is
    the median of the last minute; p50 and mean include the self-tests.

    Example: resx status
    """
    from resx.repository.skipped_folders import skipped_entries
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.client.health import medians_ms, model_status
    from resx.serving.client.server_errors import NotLoaded
    from resx.serving.running import version_records
    from resx.serving.running.server_state import gave_up, running_server

    published = Repository(server.repository)
    state = None if server.url else running_server(published)
    if not server.url and state is None and (ended := gave_up(published)):
        when = datetime.datetime.fromtimestamp(ended.ended).astimezone().isoformat(" ", "seconds")
        raise MissingCapability(
            f"{server.repository}: no server is running; the last one stopped at {when}: {ended.reason}; see `resx "
            "logs`"
        )
    address = server.address()
    payload: dict[str, Any] = {"url": str(address), "triton": None, "models": [], "gpus": None}
    payload["skipped"] = skipped_entries(published)
    deployed = version_records.read_deployed(published) if state else {}
    payload |= _fate(state, deployed)
    try:
        with TritonClient(address, timeout_s=10) as client:
            payload["triton"] = client.server_version()
            medians = medians_ms(state.metrics_port) if state else {}
            for name, versions in client.model_versions().items():
                with contextlib.suppress(NotLoaded):  # unloaded since
                    look = partial(model_status, client, name, versions, medians)
                    watched = name in deployed and name not in payload.get("recovering", {})
                    payload["models"].append(
                        leave_out_self_tests(published, name, deployed[name], look) if watched else look()
                    )
            payload["gpus"] = _gpus(address)
            for model in payload["models"]:
                model["ready"] &= model["name"] not in payload.get("recovering", {})
    except ResxError:
        if state is None or state.phase == "serving":
            raise
    printing.open().result(payload, lambda console: show_status(console, payload, published.owner))


def leave_out_self_tests(
    repository: Repository, name: str, deployed: Iterable[int], look: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return a model's status in which its requests are those of others."""
    from resx.serving.running.self_test_ledger import look_beside
    from resx.serving.running.state_folders import folder_of

    found, noted = look_beside(folder_of(repository), name, deployed, look)
    if noted is None:
        return found
    own = sum(noted.get(version, 0) for version in found["versions"])
    requests = max(0, found["requests"] - own)
    times = {} if requests else {"p50_ms": None, "mean_ms": None}
    return found | {"requests": requests, "self_tests": own} | times


def _gpus(address: Address) -> list[dict[str, Any]] | None:
    """Return what the server's GPUs do at this moment; None where nothing says."""
    from dataclasses import asdict

    from resx.serving.running.gpu_use import reader_of

    reader = reader_of(address)
    readings = reader.read() if reader else ()
    return [asdict(gpu) | {"source": reader.source} for gpu in readings] if reader and readings else None


def _fate(state: ServerState | None, served: Collection[str]) -> dict[str, Any]:
    """Return what the supervisor knows; nothing of a server that is not ours."""
    from resx.files.disk_space import why_no_room
    from resx.serving.running.server_state import now_s

    if state is None:
        return {}
    last = state.last_recovery
    return {
        "addresses": {
            "http": f"http://127.0.0.1:{state.http_port}",
            "grpc": f"grpc://127.0.0.1:{state.grpc_port}",
            "metrics": metrics_url(state.metrics_port),
        },
        "pid": state.pid,
        "native": state.native,
        "device": state.device,
        "phase": state.phase,
        "server_dir": state.server_dir or None,
        "guarded": state.patched and not state.server_dir,
        "trouble": state.trouble,
        "uptime_s": round(now_s() - state.started_s, 1),
        "restarts": state.restarts,
        "last_restart": last
        and {
            "reason": last.reason,
            "model": last.model,
            "ago_s": round(now_s() - last.serving_s, 1),
            "took_s": round(last.serving_s - last.detected_s, 2),
        },
        "recovering": state.recovering,
        "set_aside": {name: why for name, why in state.set_aside.items() if name not in served},
        "log": state.log,
        "disk": why_no_room(Path(state.log).parent),
    }
