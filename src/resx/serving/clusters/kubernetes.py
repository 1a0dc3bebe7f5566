"""A model as objects of Kubernetes: the templates of `templates/kubernetes`, and the values that fill them in."""

from __future__ import annotations

from typing import Any

from resx.serving.client.address import CONTROL_HEADER, CONTROL_KEY_VARIABLE
from resx.serving.clusters import storage
from resx.serving.clusters.autoscaling import scaling_values
from resx.serving.clusters.manifest import Fields, Manifest, fill_in
from resx.serving.clusters.workload import GROWTH, Workload
from resx.serving.embedded.installation.triton_installation import RESPONSE_CACHE_BYTES, RESTRICTED_APIS

HTTP = 8000
PRE_STOP_S, EXIT_TIMEOUT_S, GRACE_S = 10, 30, 60
"""Grace is above the sum of the other two, as Kubernetes counts the hook's time as grace."""
MIN_READY_S = 10
"""A pod that fails right after its first answer does not count as a successful step of a rollout."""
_USER = 1000
_STARTUP_S = 600
_FOLDER = "kubernetes"
ALWAYS = ("deployment", "service", "service-headless", "poddisruptionbudget", "networkpolicy")
SCALERS = {"hpa": "horizontalpodautoscaler", "keda": "scaledobject"}
MONITOR = "servicemonitor"


def kubernetes_manifests(workload: Workload) -> list[Manifest]:
    """Return everything that serves a model in a cluster, but for the Secrets and what the storage names."""
    placement, values = workload.placement, object_values(workload)
    names = [*ALWAYS, *([MONITOR] if placement.monitor else []), *_scaler_of(workload)]
    return [fill_in(f"{_FOLDER}/{name}.yaml", values) for name in names]


def _scaler_of(workload: Workload) -> list[str]:
    return [SCALERS[workload.placement.autoscaler]] if workload.placement.autoscaler != "none" else []


def object_values(workload: Workload) -> dict[str, Any]:
    """Return the value of every place in the templates of `templates/kubernetes`."""
    placement, release = workload.placement, workload.release.name
    secret, has_account = secret_name(workload), bool(placement.service_account)
    volumes, mounts = storage.volumes_of(placement.storage, release, secret, has_account=has_account)
    values = (
        pod_values(workload)
        | scaling_values(workload.model)
        | {
            "labels": labels(workload),
            "pod_labels": labels(workload) | _identity_label(workload),
            "headless_labels": labels(workload) | {"resx/service": "headless"},
            # Applied again, a number would reset what an autoscaler chose.
            "replicas": placement.replicas if placement.autoscaler == "none" else None,
            "min_replicas": placement.replicas,
            "max_replicas": GROWTH * placement.replicas,
            "min_ready_seconds": MIN_READY_S,
            "annotations": description(workload),
            "spread": spread(workload, labels(workload)),
            "model_repository": storage.repository_of(placement.storage, release),
            "storage_variables": storage.variables_of(placement.storage, secret, has_account=has_account),
            "storage_volumes": volumes,
            "storage_mounts": mounts,
            "secret_help": storage.secret_help(placement.storage, secret, has_account=has_account),
            "egress": storage.egress_of(placement.storage, has_account=has_account),
            "release_sha256": workload.release.sha256,
        }
        | probes(workload, "http")
    )
    return values | {"init_containers": _init_containers(workload, values)}


def pod_values(workload: Workload) -> dict[str, Any]:
    """Return the values that pods have in common, whether Kubernetes or KServe makes them."""
    placement = workload.placement
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return {
        "name": workload.label,
        "model": workload.model,
        "version": workload.version,
        "release": workload.release.name,
        "image": placement.image,
        "arguments": server_arguments(workload),
        "control_key": control_key(workload),
        "resources": resources(workload),
        "service_account": placement.service_account or None,
        "pull_secrets": [{"name": name} for name in placement.pull_secrets] or None,
        "priority_class": placement.priority_class or None,
        "runtime_class": placement.runtime_class or None,
        "node_selector": dict(placement.node_selector) or None,
        "tolerations": [toleration] if placement.gpu else None,
        "grace_seconds": GRACE_S,
        "pod_security": pod_security(),
        "container_security": container_security(),
        # New connections go elsewhere before Triton stops taking any.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_S)]}}},
        "shm_size": f"{workload.shm_gib}Gi",
        "tmp_size": f"{workload.tmp_gib}Gi",
    }


def labels(workload: Workload) -> dict[str, str]:
    """Return what the model's objects are found by."""
    return {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": workload.label}


def description(workload: Workload) -> dict[str, str]:
    """Return what is told of the model to people: its real name, which a label may not hold, and its configuration."""
    return {
        "resx/model": workload.model,
        "resx/version": str(workload.version),
        "resx/release": workload.release.name,
        "resx/max-queue": str(workload.max_queue),
    }


def secret_name(workload: Workload) -> str:
    """Return the name of the Secret with the storage's credentials."""
    return f"{workload.label}-{workload.placement.storage.kind}"


def server_arguments(workload: Workload) -> list[str]:
    """Return the words after `tritonserver` that do not depend on where the models are.

    One model a server: it ends when the model does not load, so that a rollout stops with the reason in its log.
    """
    restriction = f"{RESTRICTED_APIS}:{CONTROL_HEADER}=$({CONTROL_KEY_VARIABLE})"
    return [
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in (workload.model, *workload.endpoints)),
        f"--http-restricted-api={restriction}",
        f"--grpc-restricted-protocol={restriction}",
        "--metrics-config=summary_latencies=true",
        "--metrics-config=summary_quantiles=0.5:0.05,0.9:0.01,0.99:0.001",
        *([f"--cache-config=local,size={RESPONSE_CACHE_BYTES}"] if workload.response_cache else []),
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
    ]


def control_key(workload: Workload) -> Fields:
    """Return the variable with the control key, from a Secret; without the Secret no container starts."""
    source = {"secretKeyRef": {"name": f"{workload.label}-control", "key": "key"}}
    return {"name": CONTROL_KEY_VARIABLE, "valueFrom": source}


def resources(workload: Workload) -> Fields:
    """Return requests, and limits with a core above them for what is not computing: Triton's front ends.

    A GiB of ephemeral storage beside /tmp is for the log.
    """
    fixed = {"memory": f"{workload.memory_mib}Mi", "ephemeral-storage": f"{workload.tmp_gib + 1}Gi"}
    gpu = {"nvidia.com/gpu": "1"} if workload.placement.gpu else {}
    return {
        "requests": {"cpu": str(workload.cpus), **fixed, **gpu},
        "limits": {"cpu": str(workload.cpus + 1), **fixed, **gpu},
    }


def probes(workload: Workload, http: str | int) -> dict[str, Fields]:
    """Return the three probes.

    This version's readiness: the server's own says nothing of models under explicit control, and the model's nothing
    of which version it is.
    """
    path = f"/v2/models/{workload.model}/versions/{workload.version}/ready"
    ready = {"httpGet": {"path": path, "port": http}, "timeoutSeconds": 5}
    live = {"httpGet": {"path": "/v2/health/live", "port": http}, "timeoutSeconds": 5}
    return {
        "startup_probe": {**ready, "periodSeconds": 5, "failureThreshold": _STARTUP_S // 5},
        "readiness_probe": {**ready, "periodSeconds": 5, "failureThreshold": 2},
        "liveness_probe": {**live, "periodSeconds": 10, "failureThreshold": 6},
    }


def pod_security() -> Fields:
    """Return the pod's security: its volumes belong to the group that Triton runs in."""
    return {
        "runAsNonRoot": True,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Fields:
    """Return what the restricted pod security standard asks of a container, and a root that cannot be written."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def spread(workload: Workload, pods: dict[str, str]) -> list[Fields]:
    """Return how pods are spread over zones and nodes: where that is possible, or a node for each replica.

    The hard rule counts the pods of one rollout alone, so that the next one finds room, and nodes that would take them;
    while there are fewer nodes than replicas, a pod waits rather than join another.
    """
    selector = {"labelSelector": {"matchLabels": pods}}
    soft = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", **selector}
    hard = {
        "maxSkew": 1,
        "minDomains": workload.placement.replicas,
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
        "matchLabelKeys": ["pod-template-hash"],
        **selector,
    }
    node = hard if workload.placement.nodes else soft
    return [{"topologyKey": "kubernetes.io/hostname", **node}, {"topologyKey": "topology.kubernetes.io/zone", **soft}]


def _identity_label(workload: Workload) -> dict[str, str]:
    """Return the label by which Azure gives a pod its service account's identity."""
    placement = workload.placement
    is_azure = placement.storage.kind == "as" and placement.service_account
    return {"azure.workload.identity/use": "true"} if is_azure else {}


def _init_containers(workload: Workload, values: dict[str, Any]) -> list[Fields] | None:
    """Return the container that checks a mounted release; a bucket is read by Triton alone."""
    if not workload.placement.storage.is_mounted:
        return None
    return [fill_in(f"{_FOLDER}/check-container.yaml", values).fields]
