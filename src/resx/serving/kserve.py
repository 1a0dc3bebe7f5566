"""A model as objects of KServe: a ServingRuntime of ours, and the InferenceService that uses it.

The storage holds a model repository, with the model's folder in it; KServe puts it under /mnt/models.
"""

from __future__ import annotations

from resx.errors import UsageError
from resx.serving.autoscaling import GROWTH, PROMETHEUS, TARGET_S, queue_seconds
from resx.serving.kubernetes import (
    AWS_VARIABLES,
    GRACE_S,
    GRPC,
    HTTP,
    METRICS,
    container_security,
    control_key,
    description,
    pre_stop,
    probes,
    resources,
    scratch_volumes,
    server_arguments,
)
from resx.serving.objects import Fields, Manifest
from resx.serving.workload import Storage, Workload

RUNTIME = "resx-triton"
MODELS = "/mnt/models"


def kserve_manifests(workload: Workload) -> list[Manifest]:
    """Return a model's objects for KServe 0.16 or newer, in its Standard mode.

    Raises:
        UsageError: the storage or the autoscaler is one that KServe has not.
    """
    if workload.placement.autoscaler == "hpa":
        raise UsageError("--autoscaler hpa: KServe's HPA knows cpu and memory alone; give keda or none")
    account = [_account(workload)] if workload.placement.storage.kind == "s3" else []
    return [_runtime(workload), *account, _service(workload)]


def _runtime(workload: Workload) -> Manifest:
    comment = """\
One for all models of a namespace. KServe's own kserve-tritonserver has neither the key nor a pinned release."""
    volumes, mounts = scratch_volumes(workload)
    container = {
        "name": "kserve-container",
        "image": workload.placement.image,
        "command": ["tritonserver"],
        "args": [f"--model-repository={MODELS}"],
        "ports": [
            {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
            {"name": "h2c", "containerPort": GRPC, "protocol": "TCP"},
        ],
        "lifecycle": pre_stop(),
        "resources": resources(workload),
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }
    fields = {
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": {"name": RUNTIME},
        "spec": {
            "annotations": {"prometheus.kserve.io/port": str(METRICS), "prometheus.kserve.io/path": "/metrics"},
            "supportedModelFormats": [{"name": "triton", "version": "2"}],
            "protocolVersions": ["v2", "grpc-v2"],
            "containers": [container],
            "volumes": volumes,
        },
    }  # fmt: skip
    return Manifest(fields=fields, comment=comment)


def _service(workload: Workload) -> Manifest:
    placement, label = workload.placement, workload.label
    comment = f"""\
First, the key that opens the control APIs:
  kubectl create secret generic {label}-control --from-literal=key="$(openssl rand -hex 32)"
Under {storage_uri(placement.storage)} lies a model repository: the folder {workload.model} is in it.
The arguments are added to the runtime's."""
    container = {
        "modelFormat": {"name": "triton", "version": "2"},
        "runtime": RUNTIME,
        "protocolVersion": "v2",
        "storageUri": storage_uri(placement.storage),
        "args": server_arguments(workload),
        "env": [control_key(workload)],
        "resources": _resources(workload),
        **probes(workload, HTTP),
    }
    predictor: Fields = {
        "minReplicas": placement.replicas,
        "maxReplicas": GROWTH * placement.replicas if placement.autoscaler == "keda" else placement.replicas,
        **({"autoScaling": _scaling(workload)} if placement.autoscaler == "keda" else {}),
        **({"serviceAccountName": label} if placement.storage.kind == "s3" else {}),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **({"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]} if placement.gpu else {}),
        "model": container,
    }
    annotations = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": placement.autoscaler,
        **description(workload),
    }
    metadata = {"name": label, "annotations": annotations}
    fields = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata,
        "spec": {"predictor": predictor},
    }  # fmt: skip
    return Manifest(fields=fields, comment=comment)


def storage_uri(storage: Storage) -> str:
    """Return where KServe's storage initializer finds the repository.

    Raises:
        UsageError: an s3:// URL that names a host, which KServe takes from the Secret.
    """
    if storage.kind != "s3":
        return f"{storage.kind}://{storage.location}"
    if "://" in storage.location.removeprefix("s3://"):
        raise UsageError(
            f"--storage {storage.location}: KServe takes the host from the Secret's annotation "
            "serving.kserve.io/s3-endpoint; give s3://BUCKET/PREFIX"
        )
    return storage.location


def _account(workload: Workload) -> Manifest:
    literals = " ".join(f"--from-literal={name}=..." for name in AWS_VARIABLES[:2])
    comment = f"""\
KServe reads the credentials out of this account's Secret:
  kubectl create secret generic {workload.label}-s3 {literals}"""
    fields = {
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": workload.label},
        "automountServiceAccountToken": False, "secrets": [{"name": f"{workload.label}-s3"}],
    }  # fmt: skip
    return Manifest(fields=fields, comment=comment)


def _resources(workload: Workload) -> Fields:
    found = resources(workload)
    gpu = {"nvidia.com/gpu": "1"} if workload.placement.gpu else {}
    return {"requests": found["requests"] | gpu, "limits": found["limits"] | gpu}


def _scaling(workload: Workload) -> Fields:
    metric = {
        "backend": "prometheus",
        "serverAddress": PROMETHEUS,
        "query": queue_seconds(f'model="{workload.model}"', ""),
    }
    target = {"type": "Value", "value": f"{TARGET_S:g}"}
    return {"metrics": [{"type": "External", "external": {"metric": metric, "target": target}}]}
