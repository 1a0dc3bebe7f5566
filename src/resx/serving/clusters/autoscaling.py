"""How many pods: by the time that requests wait in the queue, through an HPA or KEDA.

The formula is Triton's own counters, the mean over the last minute, in seconds:

    rate(nv_inference_queue_duration_us) / rate(nv_inference_request_success) / 1e6

CPU use says little here: a server whose instances are all busy is at its limit whether requests wait or not.
An HPA gets the mean of its pods' values, KEDA the fleet's own value: `Value`, as KEDA's default divides by replicas.
"""

from __future__ import annotations

from typing import Any

from resx.serving.clusters.manifest import Manifest, fill_in

METRIC = "triton_queue_seconds"
TARGET_S = 0.02
"""Queue time at which there are as many pods as needed. A guess: choose about what a batch computes."""
PROMETHEUS = "http://prometheus-operated.monitoring:9090"


def queue_seconds(matchers: str, group: str) -> str:
    """Return the formula as PromQL; 0 where nothing is asked, as no value at all would keep every pod for ever."""
    queue = f"sum(rate(nv_inference_queue_duration_us{{{matchers}}}[1m]))"
    success = f"sum(rate(nv_inference_request_success{{{matchers}}}[1m]))"
    by = f" by ({group})" if group else ""
    return f"1e-6 * {queue}{by} / clamp_min({success}{by}, 1e-9)"


def scaling_values(model: str) -> dict[str, Any]:
    """Return what the templates of autoscalers are filled in with: up at once, at most double each half minute.

    Down by one pod a minute, after five quiet ones.
    """
    return {
        "query": queue_seconds(f'job="triton", model="{model}"', ""),
        "target_seconds": f"{TARGET_S:g}",
        "target_milli": f"{round(TARGET_S * 1000)}m",
        "behavior": {
            "scaleUp": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}]},
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            },
        },
    }


def adapter_rules() -> Manifest:
    """Return the values of prometheus-adapter's chart that give the HPA its metric."""
    return fill_in("prometheus-adapter.yaml", {"query": queue_seconds("<<.LabelMatchers>>", "<<.GroupBy>>")})
