"""How a model fares on a server: requests, failures, times; honest about which time is which.

Triton's statistics have sums, so they give a mean since the model was loaded. Medians come from the metrics of a
server that was started with `summary_latencies` (the embedded one is): over the last minute, NaN without requests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from resx.serving.client.address import Address
from resx.serving.client.answers import MAX_WORDS_BYTES
from resx.serving.client.client import TritonClient
from resx.serving.client.http_connection import HttpConnection, NotHttp
from resx.serving.client.loopback import LOOPBACK

_MEDIAN = re.compile(
    r'nv_inference_request_summary_us\{model="([^"]*)",version="(\d{1,18})",quantile="0\.5"\} '
    r"(\d{1,18}(?:\.\d*)?(?:e[+-]?\d{1,3})?)",
    re.ASCII,
)


def model_status(
    client: TritonClient, name: str, versions: list[int], medians: Mapping[tuple[str, int], float]
) -> dict[str, Any]:
    """Return a model's versions, whether the newest is ready, its requests, and p50 and mean in ms if it had any."""
    statistics = [entry["inference_stats"] for entry in client.statistics(name)]

    def total(outcome: str, of: str) -> int:
        return sum(int(entry.get(outcome, {}).get(of, 0)) for entry in statistics)

    answered = total("success", "count")
    return {
        "name": name,
        "versions": versions,
        "ready": client.is_model_ready(name),
        "requests": answered,
        "failed": total("fail", "count"),
        "p50_ms": medians.get((name, versions[-1])),
        "mean_ms": round(total("success", "ns") / answered / 1e6, 3) if answered else None,
        "self_tests": None,
    }


def medians_ms(metrics_port: int) -> dict[tuple[str, int], float]:
    """Return the median request time of the last minute in ms, by model and version; only where there were requests."""
    text = metrics_text(f"{LOOPBACK}:{metrics_port}")
    found = {(model, int(version)): float(us) / 1000 for model, version, us in _MEDIAN.findall(text)}
    return {key: round(value, 3) for key, value in found.items() if math.isfinite(value)}


def metrics_text(host_port: str, timeout_s: float = 5.0) -> str:
    """Return what a server exports for Prometheus; empty where it does not answer."""
    connection = HttpConnection(Address(host_port=host_port, protocol="http"), timeout_s=timeout_s)
    try:
        answer = connection.ask("GET", "/metrics", {}, max_bytes=MAX_WORDS_BYTES)
    except (OSError, NotHttp):
        return ""
    finally:
        connection.close()
    return answer.body.decode(errors="replace") if answer.status == 200 else ""
