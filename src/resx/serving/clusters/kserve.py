"""A model as objects of KServe: a ServingRuntime of ours, and the InferenceService that uses it.

KServe's storage initializer puts the release under /mnt/models.
"""

from __future__ import annotations

from typing import Any

from resx.errors import UsageError
from resx.serving.clusters.autoscaling import PROMETHEUS, TARGET_S, queue_seconds
from resx.serving.clusters.kubernetes import HTTP, description, pod_values, probes, secret_name, spread
from resx.serving.clusters.manifest import Fields, Manifest, fill_in
from resx.serving.clusters.storage import Storage
from resx.serving.clusters.workload import GROWTH, Workload

_KEYS = {
    "s3": "--from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=...",
    "gs": "--from-file=gcloud-application-credentials.json",
    "as": "--from-literal=AZURE_STORAGE_ACCESS_KEY=...",
}
"""What KServe, and not Triton, wants in a storage's Secret."""


def kserve_manifests(workload: Workload) -> list[Manifest]:
    """Return a model's objects for KServe 0.16 or newer, in its Standard mode.

    Raises:
        UsageError: the storage or the autoscaler is one that KServe does not have.
    """
    placement = workload.placement
    if placement.autoscaler == "hpa":
        raise UsageError("--autoscaler hpa: KServe's HPA supports cpu and memory only; give keda or none")
    if placement.monitor:
        raise UsageError("--monitor: KServe's pods are scraped by annotations; remove --monitor")
    values = _values(workload)
    names = ["servingruntime", *(["serviceaccount"] if _has_own_account(workload) else []), "inferenceservice"]
    return [fill_in(f"kserve/{name}.yaml", values) for name in names]


def storage_uri(place: Storage, release: str) -> str:
    """Return where KServe's storage initializer finds a release.

    Raises:
        UsageError: an s3:// URL that names a host, which KServe takes from the Secret.
    """
    if place.kind == "oci":
        return f"oci://{place.location}"
    if place.kind == "pvc":
        return f"pvc://{place.location}/{release}"
    if place.kind == "as":
        _, _, account, path = place.location.split("/", 3)
        return f"https://{account}.blob.core.windows.net/{path}/{release}"
    if place.location.count("://") > 1:
        raise UsageError(
            f"--storage {place.location}: KServe takes the host from the Secret's annotation "
            "serving.kserve.io/s3-endpoint; give s3://BUCKET/PREFIX"
        )
    return f"{place.location}/{release}"


def _values(workload: Workload) -> dict[str, Any]:
    placement, label = workload.placement, workload.label
    is_scaled = placement.autoscaler == "keda"
    own = {"service_account": label} if _has_own_account(workload) else {}
    return (
        pod_values(workload)
        | probes(workload, HTTP)
        | {
            "service_annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "serving.kserve.io/autoscalerClass": placement.autoscaler,
                **description(workload),
            },
            "min_replicas": placement.replicas,
            "max_replicas": GROWTH * placement.replicas if is_scaled else placement.replicas,
            "auto_scaling": _scaling(workload) if is_scaled else None,
            "spread": spread(workload, {"serving.kserve.io/inferenceservice": label}),
            "storage_uri": storage_uri(placement.storage, workload.release.name),
            "secret": secret_name(workload),
            "secret_help": f"kubectl create secret generic {secret_name(workload)} "
            + _KEYS.get(placement.storage.kind, ""),
        }
        | own
    )


def _has_own_account(workload: Workload) -> bool:
    return not workload.placement.storage.is_mounted and not workload.placement.service_account


def _scaling(workload: Workload) -> Fields:
    metric = {
        "backend": "prometheus",
        "serverAddress": PROMETHEUS,
        "query": queue_seconds(f'model="{workload.model}"', ""),
    }
    target = {"type": "Value", "value": f"{TARGET_S:g}"}
    return {"metrics": [{"type": "External", "external": {"metric": metric, "target": target}}]}
