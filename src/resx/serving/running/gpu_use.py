"""What a server's GPUs do at this moment: from the server's own metrics, or from NVML on the machine that it runs on.

A Triton that has DCGM, as NVIDIA's container does, gives the metrics (nv_gpu_utilization, nv_gpu_memory_used_bytes,
nv_gpu_power_usage) and reads them anew every two seconds. NVML (the package nvidia-ml-py) asks the driver. Where
neither answers nothing is known, which is no error.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from resx.serving.client.address import Address
from resx.serving.client.health import metrics_text
from resx.serving.client.loopback import is_loopback, split_host
from resx.serving.running.processes import descends_from
from resx.serving.running.server_state import ServerState, server_at

Source: TypeAlias = Literal["triton_metrics", "nvml"]
SOURCES: dict[Source, str] = {"triton_metrics": "the server's metrics", "nvml": "NVML"}
TRITONS_PORTS, TRITONS_METRICS_PORT = ("8000", "8001"), 8002
_METRIC = re.compile(
    r'^nv_gpu_(utilization|memory_used_bytes|memory_total_bytes|power_usage)\{gpu_uuid="([\w-]{1,100})"\} '
    r"(\d{1,20}(?:\.\d{0,20})?(?:e[+-]?\d{1,3})?)$",
    re.ASCII | re.MULTILINE,
)
_TIMEOUT_S = 2.0
"""A port that a firewall drops answers nothing at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReading:
    """One GPU at one moment; None where its driver does not say."""

    name: str
    """Its model and number, or its UUID."""
    utilization: float | None = None
    """Share of the last moments in which it computed anything, 0 to 1."""
    memory_used_bytes: int | None = None
    """By all programs."""
    memory_total_bytes: int | None = None
    power_w: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReader:
    """Reads the GPUs of a server, again and again."""

    source: Source
    read: Callable[[], tuple[GpuReading, ...]]
    """Gives nothing where the source no longer answers."""


def load_nvml() -> Any:
    """Return the module pynvml after its start, or None: it is not installed, or there is no NVIDIA driver."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # NVMLError, of which there are many, an ImportError, or a library that does not load
        return None
    return nvml


def reader_of(address: Address, nvml_here: Callable[[], Any] = load_nvml) -> GpuReader | None:
    """Return what reads the GPUs of the server at an address; None where nothing does, or it computes on the CPU.

    Args:
        address: the server's, of HTTP or gRPC.
        nvml_here: returns the module pynvml, ready to be asked, or None.
    """
    state = server_at(address.host_port)
    if state is not None and state.device == "cpu":
        return None
    host_port = metrics_address(address, state)
    if host_port and _read_metrics(host_port):
        return GpuReader(source="triton_metrics", read=lambda: _read_metrics(host_port))
    host = split_host(address.host_port)[0]
    if not (is_loopback(host) or host == socket.gethostname()):
        return None
    nvml, server = nvml_here(), state.server_pid if state else None
    if nvml is None or not read_nvml(nvml, server):
        return None
    return GpuReader(source="nvml", read=lambda: read_nvml(nvml, server))


def metrics_address(address: Address, state: ServerState | None) -> str:
    """Return where a server exports its metrics; empty where nobody can know."""
    host, _, port = address.host_port.rpartition(":")
    if state is not None:
        return f"{host}:{state.metrics_port}"
    return f"{host}:{TRITONS_METRICS_PORT}" if port in TRITONS_PORTS else ""


def parse_metrics(text: str) -> tuple[GpuReading, ...]:
    """Return what Triton's metrics say of its GPUs."""
    found: dict[str, dict[str, float]] = {}
    for what, uuid, number in _METRIC.findall(text):
        if math.isfinite(value := float(number)):
            found.setdefault(uuid, {})[what] = value
    return tuple(
        GpuReading(
            name=uuid,
            utilization=values.get("utilization"),
            power_w=values.get("power_usage"),
            memory_used_bytes=_whole(values.get("memory_used_bytes")),
            memory_total_bytes=_whole(values.get("memory_total_bytes")),
        )
        for uuid, values in sorted(found.items())
    )


def read_nvml(nvml: Any, server_pid: int | None = None) -> tuple[GpuReading, ...]:
    """Return what NVML says of the GPUs that the server's processes compute on; of all, where it sees none of them."""
    readings, of_server = [], []
    for number, handle in _handles(nvml):
        memory, rates = _asked(nvml.nvmlDeviceGetMemoryInfo, handle), _asked(nvml.nvmlDeviceGetUtilizationRates, handle)
        milliwatts = _asked(nvml.nvmlDeviceGetPowerUsage, handle)
        name = _asked(nvml.nvmlDeviceGetName, handle) or "GPU"
        readings.append(
            GpuReading(
                name=f"{number}: {name.decode() if isinstance(name, bytes) else name}",
                utilization=None if rates is None else rates.gpu / 100,
                memory_used_bytes=None if memory is None else int(memory.used),
                memory_total_bytes=None if memory is None else int(memory.total),
                power_w=None if milliwatts is None else milliwatts / 1000,
            )
        )
        users = _asked(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        of_server.append(server_pid is not None and any(descends_from(user.pid, server_pid) for user in users))
    if not any(of_server):
        return tuple(readings)
    return tuple(reading for reading, is_used in zip(readings, of_server, strict=True) if is_used)


def _read_metrics(host_port: str) -> tuple[GpuReading, ...]:
    return parse_metrics(metrics_text(host_port, _TIMEOUT_S))


def _handles(nvml: Any) -> Iterator[tuple[int, Any]]:
    for number in range(_asked(nvml.nvmlDeviceGetCount) or 0):
        if (handle := _asked(nvml.nvmlDeviceGetHandleByIndex, number)) is not None:
            yield number, handle


def _asked(question: Callable[..., Any], *about: Any) -> Any:
    """Return NVML's answer; None where this GPU or driver has none, such as of power."""
    with contextlib.suppress(Exception):  # NVMLError, whose class a fake need not have
        return question(*about)
    return None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
