"""A server's status for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.flowing_text import print_text
from resx.cli.marks import verdict
from resx.cli.output import print_lines, table
from resx.cli.views.ready_server import UNGUARDED

if TYPE_CHECKING:
    from rich.console import Console

_PROTOCOLS = {"http": "HTTP", "grpc": "gRPC", "metrics": "metrics"}


def show_status(console: Console, payload: Mapping[str, Any], owner_of: Callable[[str], str]) -> None:
    """Print the server, its models and GPUs, and what had to be brought back."""
    from resx.repository.skipped_folders import skipped_lines

    title = f"{payload['url']}  Triton {payload['triton'] or 'does not answer'}"
    if "pid" in payload:
        own = payload["native"] and not payload["server_dir"]
        how = ("native, " if own else "") + ("on the GPU, " if payload["device"] == "gpu" else "")
        title += f"  process {payload['pid']}, {how}{payload['phase']}, up {_duration(payload['uptime_s'])}"
    print_text(console, title)
    if addresses := payload.get("addresses"):
        print_lines(console, [f"{_PROTOCOLS[name] + ':':<8} {address}" for name, address in addresses.items()])
    if folder := payload.get("server_dir"):
        print_text(console, f"server of {folder}, {UNGUARDED}")
    if trouble := payload.get("trouble"):
        print_text(console, f"recovering: {trouble}")
    others = ", the other models keep serving" if payload["models"] else ""
    for name, why in payload.get("set_aside", {}).items():
        line = f"{name} is set aside{others}: {why}; retry with `resx deploy {owner_of(name)}`"
        print_text(console, line)
    rows = [
        [
            model["name"],
            ", ".join(map(str, model["versions"])),
            verdict("yes", good=True) if model["ready"] else verdict("NO", good=False),
            str(model["requests"]),
            str(model["failed"]),
            _number(model["p50_ms"]),
            _number(model["mean_ms"]),
        ]
        for model in payload["models"]
    ]
    columns = ["model", "versions", "ready", "requests", "failed", "p50 ms", "mean ms"]
    least = ("mean ms", "versions", "failed")
    console.print(table("", columns, rows, left=3, least=least) if rows else "no model is loaded")
    if any(model["self_tests"] is not None for model in payload["models"]):
        console.print("Requests exclude resx's own self-tests; p50 and mean include them")
    print_lines(console, [gpu_line(gpu) for gpu in payload["gpus"] or ()])
    if last := payload.get("last_restart"):
        times = "time" if payload["restarts"] == 1 else "times"
        what = f"the model {last['model']}, " if last["model"] else "the server, "
        line = f"recovered {payload['restarts']} {times}, last {what}{_duration(last['ago_s'])} ago: {last['reason']}"
        print_text(console, line)
    print_lines(console, skipped_lines(payload["skipped"]))
    if disk := payload.get("disk"):
        line = (
            f"{Path(payload['log']).parent}: {disk}; the server keeps running, its log and this status are not "
            "updated: free some space"
        )
        print_lines(console, [line])
    if "log" in payload:
        print_text(console, f"log: {payload['log']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def gpu_line(gpu: Mapping[str, Any]) -> str:
    """Return what a GPU does at this moment."""
    from resx.cli.views.bench_result import memory_text
    from resx.serving.running.gpu_use import SOURCES

    used, power = gpu["memory_used_bytes"], gpu["power_w"]
    parts = [
        "" if gpu["utilization"] is None else f"{gpu['utilization']:.0%} busy",
        "" if used is None else memory_text(used, gpu["memory_total_bytes"]),
        "" if power is None else f"{power:.0f} W",
    ]
    return f"GPU {gpu['name']}: {', '.join(filter(None, parts))}; from {SOURCES[gpu['source']]}"
