"""A model as objects of Kubernetes: a base, and patches for the GPU, the storage and the autoscaler.

`resx deploy --render kubernetes` prints the patched objects; `kustomization.py` writes base and patches apart, into
deploy/kubernetes/, where Kustomize joins them. There is one source for both, and a test compares the two.
"""

from __future__ import annotations

from typing import Any

from resx.serving.address import CONTROL_HEADER, CONTROL_KEY_VARIABLE
from resx.serving.autoscaling import autoscaler, unscaled
from resx.serving.embedded import RESPONSE_CACHE_BYTES, RESTRICTED_APIS
from resx.serving.objects import Fields, Manifest, patched
from resx.serving.workload import MODELS, Storage, Workload

HTTP, GRPC, METRICS = 8000, 8001, 8002
PRE_STOP_S, EXIT_TIMEOUT_S, GRACE_S = 10, 30, 60
"""Grace is above the sum of the other two, as Kubernetes counts the hook's time as grace."""
CLIENT_LABEL = "resx/client"
MONITORING_NAMESPACE = "monitoring"
_USER = 1000
_STARTUP_S = 600
AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


def kubernetes_manifests(workload: Workload) -> list[Manifest]:
    """Return everything that serves a model in a cluster, but for the Secrets and what `storage` names."""
    placement = workload.placement
    patches = [*storage_patches(workload), *(gpu_patches(workload) if placement.gpu else [])]
    if placement.autoscaler == "none":
        return patched(base(workload), patches)
    objects = [*base(workload), *autoscaler(workload)]
    return patched(objects, [*patches, unscaled(workload)])


def base(workload: Workload) -> list[Manifest]:
    """Return the objects that every kind of placement has; their pods have no models yet."""
    return [
        _deployment(workload),
        _service(workload),
        _headless_service(workload),
        _disruption_budget(workload),
        _network_policy(workload),
    ]


def gpu_patches(workload: Workload) -> list[Fields]:
    """Return what gives each pod a GPU."""
    container = {"name": "triton", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return [_pod_patch(workload, {"containers": [container], "tolerations": [toleration]})]


def storage_patches(workload: Workload) -> list[Fields]:
    """Return what gives the pods their model repository."""
    storage = workload.placement.storage
    if storage.kind == "s3":
        variables = [{"name": "MODEL_REPOSITORY", "value": storage.location}, *s3_variables(workload)]
        # Triton copies what it loads into /tmp.
        volumes = [{"name": "tmp", "emptyDir": {"sizeLimit": f"{1 + workload.memory_gib}Gi"}}]
        pod = _pod_patch(workload, {"containers": [{"name": "triton", "env": variables}], "volumes": volumes})
        return [pod, _open_to_storage(workload)]
    mount = {"name": "models", "mountPath": MODELS, "readOnly": True}
    volume = {"name": "models", **_volume_source(storage)}
    return [_pod_patch(workload, {"containers": [{"name": "triton", "volumeMounts": [mount]}], "volumes": [volume]})]


def s3_variables(workload: Workload) -> list[Fields]:
    """Return the variables in which Triton looks for credentials, from the Secret LABEL-s3."""
    secret = f"{workload.label}-s3"
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in AWS_VARIABLES
    ]  # fmt: skip


def labels(workload: Workload) -> dict[str, str]:
    """Return what the model's objects are found by."""
    return {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": workload.label}


def description(workload: Workload) -> dict[str, str]:
    """Return what is told of the model to people: its real name, which a label may not hold, and its configuration."""
    return {
        "resx/model": workload.model,
        "resx/version": str(workload.version),
        "resx/version-policy": workload.version_policy,
        "resx/max-queue": str(workload.max_queue),
    }


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
    """Return requests, and limits with a core above them for what is not computing: Triton's front ends."""
    memory = f"{workload.memory_gib}Gi"
    return {
        "requests": {"cpu": str(workload.cpus), "memory": memory},
        "limits": {"cpu": str(workload.cpus + 1), "memory": memory},
    }


def probes(workload: Workload, http: str | int) -> Fields:
    """Return the three probes. The model's readiness, as the server's own says nothing of it under explicit control."""
    ready = {"httpGet": {"path": f"/v2/models/{workload.model}/ready", "port": http}, "timeoutSeconds": 5}
    live = {"httpGet": {"path": "/v2/health/live", "port": http}, "timeoutSeconds": 5}
    return {
        "startupProbe": {**ready, "periodSeconds": 5, "failureThreshold": _STARTUP_S // 5},
        "readinessProbe": {**ready, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "failureThreshold": 6},
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


def scratch_volumes(workload: Workload) -> tuple[list[Fields], list[Fields]]:
    """Return the volumes that can be written, and their mounts: shared memory counts as the pod's memory."""
    shm = {"medium": "Memory", "sizeLimit": f"{workload.shm_gib}Gi"}
    volumes = [{"name": "shm", "emptyDir": shm}, {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]
    return volumes, [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108


def pre_stop() -> Fields:
    """Return the hook that lets new connections go elsewhere before Triton stops taking any."""
    return {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_S)]}}}


def spread(workload: Workload) -> list[Fields]:
    """Return the wish for different nodes and zones; a wish, so that a small cluster runs it too."""
    return [
        {
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels(workload)},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]  # fmt: skip


def _deployment(workload: Workload) -> Manifest:
    label = workload.label
    comment = f"""\
Triton with one model. First, the key that opens its control APIs (docs/security.md), from a shell:
  kubectl create secret generic {label}-control --from-literal=key="$(openssl rand -hex 32)"
It stands in the server's command line: who may exec into the pod, or list the node's processes, can read it.

A pod loads what the storage then holds and the version policy names, so pods that start at different times differ
if the storage changed: publish into a new prefix, claim or image, and change it here."""
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": spread(workload),
        "containers": [_container(workload)],
        "volumes": scratch_volumes(workload)[0],
    }
    spec = {
        "replicas": workload.placement.replicas,
        "revisionHistoryLimit": 5,
        "progressDeadlineSeconds": _STARTUP_S + 60,
        # A new pod answers before an old one goes; it needs room for one more.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": labels(workload)},
        "template": {
            "metadata": {"labels": labels(workload), "annotations": description(workload)},
            "spec": pod,
        },
    }
    return Manifest(comment=comment, fields=_object("apps/v1", "Deployment", label, workload, spec))


def _container(workload: Workload) -> Fields:
    ports = {"http": HTTP, "grpc": GRPC, "metrics": METRICS}
    return {
        "name": "triton",
        "image": workload.placement.image,
        "command": ["tritonserver"],
        "args": ["--model-repository=$(MODEL_REPOSITORY)", *server_arguments(workload)],
        "env": [control_key(workload), {"name": "MODEL_REPOSITORY", "value": MODELS}],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        **probes(workload, "http"),
        "lifecycle": pre_stop(),
        "resources": resources(workload),
        "securityContext": container_security(),
        "volumeMounts": scratch_volumes(workload)[1],
    }


def _service(workload: Workload) -> Manifest:
    comment = """\
For callers that open many connections. It balances connections, not requests: a gRPC channel, or a kept HTTP
connection, stays with one pod for its life, and pods added later get nothing of it."""
    spec = {"type": "ClusterIP", "selector": labels(workload), "ports": _service_ports()}
    return Manifest(comment=comment, fields=_object("v1", "Service", workload.label, workload, spec))


def _headless_service(workload: Workload) -> Manifest:
    name = f"{workload.label}-headless"
    comment = f"""\
For gRPC clients that balance themselves: its name resolves to the pods' addresses.
  grpc.insecure_channel("dns:///{name}:{GRPC}", options=[("grpc.service_config",
      '{{"loadBalancingConfig": [{{"round_robin": {{}}}}]}}')])
A client looks the name up again only when a connection ends, so new pods are found late. A proxy that speaks
HTTP/2 (a service mesh, Envoy, HAProxy, nginx) balances requests and needs neither."""
    metrics = {"name": "metrics", "port": METRICS, "targetPort": "metrics"}
    spec = {"clusterIP": "None", "selector": labels(workload), "ports": [*_service_ports(), metrics]}
    fields = _object("v1", "Service", name, workload, spec)
    fields["metadata"]["labels"]["resx/service"] = "headless"
    return Manifest(comment=comment, fields=fields)


def _service_ports() -> list[Fields]:
    return [
        {"name": "http", "port": HTTP, "targetPort": "http"},
        {"name": "grpc", "port": GRPC, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
    ]


def _disruption_budget(workload: Workload) -> Manifest:
    comment = "A drained node takes one pod at a time; with a single replica that is an interruption."
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": labels(workload)}}
    return Manifest(
        comment=comment, fields=_object("policy/v1", "PodDisruptionBudget", workload.label, workload, spec)
    )  # fmt: skip


def _network_policy(workload: Workload) -> Manifest:
    comment = f"""\
Requests from pods with the label {CLIENT_LABEL}: "true" in this namespace, scrapes from the namespace
{MONITORING_NAMESPACE}, and nothing out. The kubelet's probes pass. Needs a network plugin that enforces policies."""
    clients = {"podSelector": {"matchLabels": {CLIENT_LABEL: "true"}}}
    scrapers = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MONITORING_NAMESPACE}}}
    spec = {
        "podSelector": {"matchLabels": labels(workload)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [clients], "ports": [_tcp(HTTP), _tcp(GRPC)]},
            {"from": [scrapers], "ports": [_tcp(METRICS)]},
        ],
        "egress": [],
    }
    return Manifest(
        comment=comment, fields=_object("networking.k8s.io/v1", "NetworkPolicy", workload.label, workload, spec)
    )  # fmt: skip


def _open_to_storage(workload: Workload) -> Fields:
    """Return the patch that lets the pods look names up and reach the storage, wherever it is."""
    dns = {"ports": [{"protocol": "UDP", "port": 53}, _tcp(53)]}
    endpoint = workload.placement.storage.location.removeprefix("s3://").rpartition("://")[2].partition("/")[0]
    port = int(endpoint.rpartition(":")[2]) if ":" in endpoint else 443
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": workload.label},
        "spec": {"egress": [dns, {"ports": [_tcp(port)]}]},
    }  # fmt: skip


def _tcp(port: int) -> Fields:
    return {"protocol": "TCP", "port": port}


def _volume_source(storage: Storage) -> Fields:
    if storage.kind == "oci":
        return {"image": {"reference": storage.location, "pullPolicy": "IfNotPresent"}}
    return {"persistentVolumeClaim": {"claimName": storage.location, "readOnly": True}}


def _pod_patch(workload: Workload, pod: dict[str, Any]) -> Fields:
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": workload.label},
        "spec": {"template": {"spec": pod}},
    }  # fmt: skip


def _object(api_version: str, kind: str, name: str, workload: Workload, spec: Fields) -> Fields:
    metadata = {"name": name, "labels": labels(workload)}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
