"""`resx status` and `resx logs`: how a server fares."""

from __future__ import annotations

import codecs
import contextlib
import datetime
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options.shared import Ca, Cert, Header, Json, Key, ProtocolName, Quiet, RepositoryPath, Url
from resx.cli.output import Output, print_lines, table
from resx.errors import MissingCapability, ResxError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.running.server_state import ServerState


UNGUARDED = "without the guard on requests of resx's own server (docs/security.md)"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("status")(status)
    app.command("logs")(logs)


def status(
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
    """Show whether a server runs, each model's versions, requests and times, and what had to be brought back.

    p50 is the median of the last minute, from the embedded server's metrics; mean is since the model was loaded.

    Example: resx status
    """
    from resx.cli.options.connection import address_of
    from resx.repository.skipped_folders import skipped_entries
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.client.health import medians_ms, model_status
    from resx.serving.client.server_errors import NotLoaded
    from resx.serving.running import server_state as states
    from resx.serving.running.server_state import gave_up, running_server

    published = Repository(repository)
    state = None if url else running_server(published)
    if not url and state is None and (ended := gave_up(published)):
        when = datetime.datetime.fromtimestamp(ended.ended).astimezone().isoformat(" ", "seconds")
        raise MissingCapability(
            f"{repository}: no server; the last one ended at {when}: {ended.reason}; see `resx logs`"
        )
    address = address_of(url, protocol, published, ca=ca, cert=cert, key=key, headers=header)
    payload: dict[str, Any] = {"url": str(address), "triton": None, "models": [], "gpus": None}
    payload["skipped"] = skipped_entries(published)
    payload |= _fate(state, states.read_deployed(published))
    try:
        with TritonClient(address, timeout_s=10) as client:
            payload["triton"] = client.server_version()
            medians = medians_ms(state.metrics_port) if state else {}
            for name, versions in client.model_versions().items():
                with contextlib.suppress(NotLoaded):  # unloaded since
                    payload["models"].append(model_status(client, name, versions, medians))
            payload["gpus"] = _gpus(address)
            for model in payload["models"]:
                model["ready"] &= model["name"] not in payload.get("recovering", {})
    except ResxError:
        if state is None or state.phase == "serving":
            raise
    Output(as_json=json, quiet=quiet).result(payload, lambda console: _show(console, payload, published.owner))


def _gpus(address: Address) -> list[dict[str, Any]] | None:
    """Return what the server's GPUs do at this moment; None where nothing says."""
    from dataclasses import asdict

    from resx.serving.running.gpu_use import reader_of

    reader = reader_of(address)
    readings = reader.read() if reader else ()
    return [asdict(gpu) | {"source": reader.source} for gpu in readings] if reader and readings else None


def _gpu_line(gpu: Mapping[str, Any]) -> str:
    from resx.cli.views.bench_result import memory_text
    from resx.serving.running.gpu_use import SOURCES

    used, power = gpu["memory_used_bytes"], gpu["power_w"]
    parts = [
        "" if gpu["utilization"] is None else f"{gpu['utilization']:.0%} busy",
        "" if used is None else memory_text(used, gpu["memory_total_bytes"]),
        "" if power is None else f"{power:.0f} W",
    ]
    return f"GPU {gpu['name']}: {', '.join(filter(None, parts))}; from {SOURCES[gpu['source']]}"


def _fate(state: ServerState | None, served: Collection[str]) -> dict[str, Any]:
    """Return what the supervisor knows; nothing of a server that is not ours."""
    from resx.files.disk_space import why_no_room
    from resx.serving.running.server_state import now_s

    if state is None:
        return {}
    last = state.last_recovery
    return {
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


def _show(console: Console, payload: Mapping[str, Any], owner_of: Callable[[str], str]) -> None:
    from resx.repository.skipped_folders import skipped_lines

    title = f"{payload['url']}  Triton {payload['triton'] or 'does not answer'}"
    if "pid" in payload:
        own = payload["native"] and not payload["server_dir"]
        how = ("native, " if own else "") + ("on the GPU, " if payload["device"] == "gpu" else "")
        title += f"  process {payload['pid']}, {how}{payload['phase']}, up {_duration(payload['uptime_s'])}"
    console.print(title, markup=False, soft_wrap=True)
    if folder := payload.get("server_dir"):
        console.print(f"server of {folder}, {UNGUARDED}", markup=False, soft_wrap=True)
    if trouble := payload.get("trouble"):
        console.print(f"recovering: {trouble}", markup=False, soft_wrap=True)
    others = ", the others go on" if payload["models"] else ""
    for name, why in payload.get("set_aside", {}).items():
        line = f"{name} is set aside{others}: {why}; `resx deploy {owner_of(name)}` tries it again"
        console.print(line, markup=False, soft_wrap=True)
    rows = [
        [
            model["name"],
            ", ".join(map(str, model["versions"])),
            "yes" if model["ready"] else "NO",
            str(model["requests"]),
            str(model["failed"]),
            _number(model["p50_ms"]),
            _number(model["mean_ms"]),
        ]
        for model in payload["models"]
    ]
    columns = ["model", "versions", "ready", "requests", "failed", "p50 ms", "mean ms"]
    console.print(table("", columns, rows, left=3) if rows else "no model is loaded")
    print_lines(console, [_gpu_line(gpu) for gpu in payload["gpus"] or ()])
    if last := payload.get("last_restart"):
        times = "time" if payload["restarts"] == 1 else "times"
        what = f"{last['model']} alone, " if last["model"] else "the server, "
        line = (
            f"brought back {payload['restarts']} {times}, last {what}{_duration(last['ago_s'])} ago: {last['reason']}"
        )
        console.print(line, markup=False, soft_wrap=True)
    print_lines(console, skipped_lines(payload["skipped"]))
    if disk := payload.get("disk"):
        line = f"{Path(payload['log']).parent}: {disk}; the server goes on, its log and this status do not: make room"
        print_lines(console, [line])
    if "log" in payload:
        console.print(f"log: {payload['log']}", markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def logs(
    repository: RepositoryPath = Path("model_repository"),
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Lines from the end.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the server ends, or Ctrl-C.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the end of the log of this repository's server, running or not: Triton's lines and the supervisor's.

    Example: resx logs -f -n 100
    """
    from resx.repository.versions import Repository
    from resx.serving.running import logs as files
    from resx.serving.running.server_state import LOG, folder_of

    published = Repository(repository)
    log = folder_of(published) / LOG
    if follow and json:
        raise UsageError("--json and --follow: give one of them")
    if not log.exists():
        raise UsageError(f"{repository}: no server of this repository has run; `resx serve` starts one")
    position = log.stat().st_size
    tail = files.last_lines(log, lines)
    if json:
        Output(as_json=True, quiet=quiet).result({"log": str(log), "lines": tail}, lambda _console: None)
        return
    sys.stdout.write("".join(f"{line}\n" for line in tail))
    sys.stdout.flush()
    if follow:
        _follow(published, log, position)


def _follow(repository: Repository, log: Path, position: int) -> None:
    from resx.serving.running import logs as files
    from resx.serving.running.server_state import running_server

    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a block may end within a character
    try:
        for block in files.follow(log, position, lambda: running_server(repository) is None):
            sys.stdout.write(decoder.decode(block))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
