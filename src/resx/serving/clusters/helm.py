"""A model as a Helm chart: the objects of Kubernetes, with what differs from cluster to cluster as values.

The chart serves one release of one model; Helm's own checks hold its values to `values.schema.json`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

from resx.serving.clusters.kubernetes import ALWAYS, MONITOR, SCALERS, object_values
from resx.serving.clusters.manifest import ChartValue, Manifest, chart_text, fill_in
from resx.serving.clusters.naming import LABEL_VALUE
from resx.serving.clusters.release import RELEASES
from resx.serving.clusters.workload import Workload

SCHEMA = "values.schema.json"
_VALUES = {
    "image": "image",
    "replicas": "min_replicas",
    "maxReplicas": "max_replicas",
    "minReadySeconds": "min_ready_seconds",
    "resources": "resources",
    "imagePullSecrets": "pull_secrets",
    "priorityClassName": "priority_class",
    "runtimeClassName": "runtime_class",
    "nodeSelector": "node_selector",
    "tolerations": "tolerations",
    "topologySpreadConstraints": "spread",
}
"""The chart's values, and the place in the templates that each one fills."""
_EMPTY: dict[str, object] = {"nodeSelector": {}, "imagePullSecrets": [], "tolerations": []}


def chart_files(workload: Workload) -> dict[str, str]:
    """Return the files of the chart, by path in its folder."""
    found = object_values(workload)
    settings: dict[str, object] = {place: ChartValue(key=key) for key, place in _VALUES.items()}
    values = (
        found
        | settings
        | {
            "replicas": ChartValue(key="replicas", condition='eq .Values.autoscaler "none"'),
            "image": ChartValue(key="image", condition="always"),
        }
    )
    # The check of the release has the same image.
    check = fill_in("kubernetes/check-container.yaml", values).fields
    values["init_containers"] = [check] if found["init_containers"] else None
    files = {f"templates/{name}.yaml": chart_text(fill_in(f"kubernetes/{name}.yaml", values)) for name in ALWAYS}
    scalers = {f'eq .Values.autoscaler "{kind}"': SCALERS[kind] for kind in _scalers_of(workload)}
    for when, name in {".Values.monitor": MONITOR, **scalers}.items():
        text = chart_text(fill_in(f"kubernetes/{name}.yaml", values))
        files[f"templates/{name}.yaml"] = f"{{{{- if {when} }}}}\n{text}{{{{- end }}}}\n"
    return files | {
        ".helmignore": f"{RELEASES}/\n",
        "Chart.yaml": _chart(workload),
        "values.yaml": _values_text(workload, found),
        SCHEMA: json.dumps(_schema(workload), indent=2) + "\n",
    }


def _chart(workload: Workload) -> str:
    chart = fill_in(
        "helm/Chart.yaml",
        {
            "name": workload.label,
            "model": workload.model,
            "description": f"Triton with {workload.model}, version {workload.version}",
            "chart_version": f"{workload.version}.0.0",
            "release": workload.release.name,
            "kube_version": ">=1.27.0-0" if workload.placement.storage.kind != "oci" else ">=1.33.0-0",
        },
    )
    return chart_text(chart)


def _values_text(workload: Workload, found: dict[str, object]) -> str:
    placement = workload.placement
    values = {key: found[place] if found[place] is not None else _EMPTY.get(key, "") for key, place in _VALUES.items()}
    scaling = {"autoscaler": placement.autoscaler, "monitor": placement.monitor}
    comment = f"""\
autoscaler: none, hpa (needs prometheus-adapter) or keda; monitor: a ServiceMonitor for Prometheus's operator.
The release, {workload.release.name}, and its storage are fixed: render another chart for another version."""
    return chart_text(replace(Manifest(fields=values | scaling), comment=comment))


def _scalers_of(workload: Workload) -> list[str]:
    """Return the autoscalers that the model can have: an HPA picks its metric by the name, as a label."""
    return [kind for kind in SCALERS if kind != "hpa" or LABEL_VALUE.fullmatch(workload.model)]


def _schema(workload: Workload) -> dict[str, Any]:
    text = (resources.files(__package__) / "templates" / "helm" / SCHEMA).read_text()
    schema: dict[str, Any] = json.loads(text)
    schema["properties"]["autoscaler"]["enum"] = ["none", *_scalers_of(workload)]
    return schema
