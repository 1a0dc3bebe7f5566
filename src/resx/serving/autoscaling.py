"""How many pods: by the time that requests wait in the queue, through an HPA or KEDA, and what both measure it with.

The formula is Triton's own counters, the mean over the last minute, in seconds:

    rate(nv_inference_queue_duration_us) / rate(nv_inference_request_success) / 1e6

CPU use says little here: a server whose instances are all busy is at its limit whether requests wait or not.
An HPA gets the mean of its pods' values, KEDA the fleet's own value: `Value`, as KEDA's default divides by replicas.
"""

from __future__ import annotations

import re

from resx.errors import UsageError
from resx.serving.objects import Fields, Manifest
from resx.serving.workload import Workload

METRIC = "triton_queue_seconds"
TARGET_S = 0.02
"""Queue time at which there are as many pods as needed. A guess: choose about what a batch computes."""
GROWTH = 4
_SCRAPE = "15s"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
PROMETHEUS = "http://prometheus-operated.monitoring:9090"


def autoscaler(workload: Workload) -> list[Manifest]:
    """Return the objects of the workload's autoscaler: what scrapes, and what scales."""
    scaler = horizontal_autoscaler(workload) if workload.placement.autoscaler == "hpa" else scaled_object(workload)
    return [service_monitor(workload), scaler]


def unscaled(workload: Workload) -> Fields:
    """Return the patch that leaves the number of pods to the autoscaler: applied again, a number would reset it."""
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": workload.label},
        "spec": {"replicas": None},
    }  # fmt: skip


def queue_seconds(matchers: str, group: str) -> str:
    """Return the formula as PromQL; 0 where nothing is asked, as no value at all would keep every pod for ever."""
    queue = f"sum(rate(nv_inference_queue_duration_us{{{matchers}}}[1m]))"
    success = f"sum(rate(nv_inference_request_success{{{matchers}}}[1m]))"
    by = f" by ({group})" if group else ""
    return f"1e-6 * {queue}{by} / clamp_min({success}{by}, 1e-9)"


def horizontal_autoscaler(workload: Workload) -> Manifest:
    """Return the HPA, for clusters with prometheus-adapter.

    Raises:
        UsageError: the model's name cannot be a label's value.
    """
    comment = f"""\
Scales on the time that requests wait in the queue: {TARGET_S:g} s is the aim. Needs prometheus-adapter with the rule in
deploy/kubernetes/prometheus-adapter.yaml; without it the number of pods stays. Not beside KEDA's ScaledObject."""
    if not _LABEL_VALUE.fullmatch(workload.model):
        raise UsageError(
            f"--autoscaler hpa: picks the metric by the model's name, and {workload.model} cannot be a label; give "
            "keda or none, or a name of at most 63 characters that ends in a letter or digit"
        )
    metric = {"name": METRIC, "selector": {"matchLabels": {"model": workload.model}}}
    target = {"type": "AverageValue", "averageValue": f"{round(TARGET_S * 1000)}m"}
    return Manifest(
        comment=comment,
        fields={
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": _metadata(workload),
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.label},
                "minReplicas": workload.placement.replicas,
                "maxReplicas": GROWTH * workload.placement.replicas,
                "metrics": [{"type": "Pods", "pods": {"metric": metric, "target": target}}],
                "behavior": _behaviour(),
            },
        },
    )  # fmt: skip


def scaled_object(workload: Workload) -> Manifest:
    """Return KEDA's object, which asks Prometheus itself."""
    comment = f"""\
KEDA's alternative to the HPA: it asks Prometheus itself, at the address below, and makes an HPA of its own. The aim is
{TARGET_S:g} s in the queue."""
    return Manifest(
        comment=comment,
        fields={
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": _metadata(workload),
            "spec": {
                "scaleTargetRef": {"name": workload.label},
                "minReplicaCount": workload.placement.replicas,
                "maxReplicaCount": GROWTH * workload.placement.replicas,
                "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behaviour()}},
                "triggers": [
                    {
                        "type": "prometheus",
                        "metricType": "Value",
                        "metadata": {
                            "serverAddress": PROMETHEUS,
                            "query": queue_seconds(f'job="triton", model="{workload.model}"', ""),
                            "threshold": f"{TARGET_S:g}",
                        },
                    }
                ],
            },
        },
    )  # fmt: skip


def service_monitor(workload: Workload) -> Manifest:
    """Return what tells Prometheus's operator to scrape each pod."""
    comment = """\
For Prometheus's operator. The job is called triton, as deploy/prometheus/rules.yml and the dashboard want it. Some
operators take only monitors with a label of theirs, such as `release: ...`."""
    selector = {"matchLabels": {"app.kubernetes.io/instance": workload.label, "resx/service": "headless"}}
    return Manifest(
        comment=comment,
        fields={
            "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": _metadata(workload),
            "spec": {
                "jobLabel": "app.kubernetes.io/name",
                "selector": selector,
                "endpoints": [{"port": "metrics", "path": "/metrics", "interval": _SCRAPE, "scrapeTimeout": "5s"}],
            },
        },
    )  # fmt: skip


def adapter_rules() -> Fields:
    """Return the values of prometheus-adapter's chart that give the HPA its metric."""
    query = queue_seconds("<<.LabelMatchers>>", "<<.GroupBy>>")
    rule = {
        "seriesQuery": 'nv_inference_queue_duration_us{job="triton",namespace!="",pod!=""}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"as": METRIC},
        "metricsQuery": query,
    }
    return {"rules": {"custom": [rule]}}


def _metadata(workload: Workload) -> Fields:
    labels = {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": workload.label}
    return {"name": workload.label, "labels": labels}


def _behaviour() -> Fields:
    """Return the pace: up at once, at most double each half minute; down by one a minute, after five quiet ones."""
    return {
        "scaleUp": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}]},
        "scaleDown": {
            "stabilizationWindowSeconds": 300,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }
