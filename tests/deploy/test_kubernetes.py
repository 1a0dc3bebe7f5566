"""deploy/kubernetes, deploy/kserve, deploy/helm and `resx deploy --render`: one source, valid, and closed.

There is no cluster: Kustomize renders, Kubernetes' published schemas validate, and the server's command runs in the
embedded server's binary. For objects of KServe, KEDA and Prometheus's operator no package has a schema.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from resx.errors import ResxError, UsageError
from resx.repository.versions import Repository
from resx.runtimes.triton_image import IMAGE
from resx.serving.client.address import CONTROL_HEADER, parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import LOOPBACK
from resx.serving.clusters.autoscaling import METRIC, TARGET_S, queue_seconds
from resx.serving.clusters.kserve import kserve_manifests, storage_uri
from resx.serving.clusters.kubernetes import kubernetes_manifests
from resx.serving.clusters.kustomization import STORAGES, deploy_files, example
from resx.serving.clusters.release import write_release
from resx.serving.clusters.storage import parse_storage
from resx.serving.clusters.workload import AUTOSCALERS, Placement, workload_of
from resx.serving.embedded import server_ports
from resx.serving.embedded.installation import triton_installation
from tests.support import debian
from tests.support.kubectl import kubectl
from tests.support.tiny_models import publish_tiny

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VERSIONS = ("1.33", "1.37")
"""The first with image volumes in beta, and the newest that there are schemas of."""
CUSTOM = {"ServiceMonitor", "ScaledObject", "InferenceService", "ServingRuntime"}
EVERY_OPTION: dict[str, Any] = {
    "gpu": True,
    "nodes": 3,
    "node_selector": {"gpu": "h100"},
    "runtime_class": "nvidia",
    "priority_class": "high",
    "pull_secrets": ("registry",),
    "image": f"r.example.com:5000/a/triton:1@sha256:{'0' * 64}",
}
KEY = "a-long-random-text"
Object = dict[str, Any]


def placements() -> Iterator[Placement]:
    for storage in STORAGES:
        for gpu in (False, True):
            for autoscaler in AUTOSCALERS:
                yield Placement(storage=storage, gpu=gpu, autoscaler=autoscaler, monitor=autoscaler != "none")
    for account in ("", "reader"):
        for storage in STORAGES:
            yield Placement(storage=storage, service_account=account, **EVERY_OPTION)


def rendered(placement: Placement) -> list[Object]:
    return [one.fields for one in kubernetes_manifests(example(placement))]


def title(placement: Placement) -> str:
    words = (placement.storage.kind, placement.autoscaler, "gpu" * placement.gpu, "all" * bool(placement.nodes))
    return "-".join(word for word in (*words, placement.service_account) if word)


@pytest.fixture(params=placements(), ids=title)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(request.param)


def the(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = (one for one in objects if one["kind"] == kind and name in {"", one["metadata"]["name"]})
    return found


def containers_of(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    for one in objects:
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["spec"]
            yield from ((pod, container) for container in (*pod["containers"], *pod.get("initContainers", [])))


def the_server(objects: list[Object]) -> Object:
    (found,) = (container for _, container in containers_of(objects) if container["name"] == "triton")
    return found


def validate(one: Object, version: str) -> None:
    kubernetes_validate.validate(one, version, strict=True)


def broken_policies(objects: list[Object]) -> list[str]:
    """Return what a careful cluster would refuse, as a list of words."""
    found = []
    for pod, container in containers_of(objects):
        security, image = container["securityContext"], container["image"]
        rules = {
            "an image without a release": re.search(r":[^/:]+$|@sha256:", image) and not image.endswith(":latest"),
            "root": security.get("runAsNonRoot") and security.get("runAsUser", 0) > 0,
            "privileges": security.get("allowPrivilegeEscalation") is False and not security.get("privileged"),
            "capabilities": security.get("capabilities") == {"drop": ["ALL"]},
            "a root that can be written": security.get("readOnlyRootFilesystem") is True,
            "seccomp": pod["securityContext"].get("seccompProfile") == {"type": "RuntimeDefault"},
            "a group for its volumes": pod["securityContext"].get("fsGroup"),
            "limits": {"cpu", "memory"} <= container["resources"].get("limits", {}).keys(),
            "requests": {"cpu", "memory"} <= container["resources"].get("requests", {}).keys(),
            "probes": {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            or container in pod.get("initContainers", []),
            "a token": pod.get("automountServiceAccountToken") is False,
            "the host": not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
            and not any("hostPath" in volume for volume in pod["volumes"]),
        }
        found += [rule for rule, kept in rules.items() if not kept]
    return found


def test_the_files_in_deploy_are_those_of_the_renderer() -> None:
    written = {
        path.relative_to(DEPLOY).as_posix(): path.read_text()
        for folder in ("kubernetes", "kserve", "helm")
        for path in (DEPLOY / folder).rglob("*")
        if path.is_file()
    }
    assert written == deploy_files(), "run `make manifests`"


def test_the_image_is_the_one_of_the_compose_file() -> None:
    assert f"image: {IMAGE}\n" in (ROOT / "docker-compose.yml").read_text()


def test_every_placement_fits_the_schemas_of_two_versions(objects: list[Object]) -> None:
    for one in objects:
        if one["kind"] not in CUSTOM:
            for version in VERSIONS:
                validate(one, version)
    assert len(objects) >= 5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("Deployment", "readinessProbe:", "readinesProbe:"),
        ("Deployment", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: soon"),
        ("Deployment", "failureThreshold: 2\n", "failureThreshold: 2\n          failureTreshold: 2\n"),
        ("PodDisruptionBudget", "maxUnavailable", "maxUnavailble"),
        ("HorizontalPodAutoscaler", "averageValue", "averageVlaue"),
        ("NetworkPolicy", "podSelector", "podSelektor"),
    ],
)  # fmt: skip
def test_the_validator_refuses_a_misspelt_manifest(kind: str, before: str, after: str, version: str) -> None:
    text = yaml.safe_dump(the(rendered(Placement(autoscaler="hpa")), kind))
    assert before in text
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(yaml.safe_load(text.replace(before, after, 1)), version)


def test_no_placement_breaks_a_policy(objects: list[Object]) -> None:
    assert broken_policies(objects) == []


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (("image",), "nvcr.io/nvidia/tritonserver:latest", "an image without a release"),
        (("image",), "registry:5000/tritonserver", "an image without a release"),
        (("securityContext", "runAsUser"), 0, "root"),
        (("securityContext", "privileged"), True, "privileges"),
        (("securityContext", "capabilities"), {}, "capabilities"),
        (("securityContext", "readOnlyRootFilesystem"), False, "a root that can be written"),
        (("resources", "limits"), {"cpu": "1"}, "limits"),
        (("livenessProbe",), None, "probes"),
    ],
)  # fmt: skip
def test_the_policies_can_be_broken(path: tuple[str, ...], value: Any, rule: str) -> None:
    objects = rendered(Placement(storage=parse_storage("s3://bucket/models")))
    ((_, at),) = containers_of(objects)
    for key in path[:-1]:
        at[key] = dict(at[key])
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    assert broken_policies(objects) == [rule]


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def kustomized(folder: Path) -> list[Object]:
    done = subprocess.run([str(kubectl()), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", ["cpu", "gpu"])
def test_kustomize_reads_the_folders_in_deploy(folder: str) -> None:
    wanted = rendered(Placement(gpu=folder == "gpu"))
    assert by_name(kustomized(DEPLOY / "kubernetes" / folder)) == by_name(wanted)


def test_kustomize_reads_the_kserve_folder() -> None:
    wanted = [one.fields for one in kserve_manifests(example())]
    assert by_name(kustomized(DEPLOY / "kserve")) == by_name(wanted)


def test_pods_are_ready_when_the_model_is_and_live_when_the_server_is() -> None:
    container = the_server(rendered(Placement()))
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    ready = "/v2/models/resnet50/versions/1/ready"
    assert paths == {"startup": ready, "readiness": ready, "liveness": "/v2/health/live"}


def test_grace_covers_the_hook_and_tritons_own_exit() -> None:
    pod, container = next(containers_of(rendered(Placement())))
    (exit_s,) = (int(word.partition("=")[2]) for word in container["args"] if word.startswith("--exit-timeout-secs="))
    hook_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > hook_s + exit_s


def test_the_control_apis_want_the_key_of_a_secret() -> None:
    container = the_server(rendered(Placement()))
    variables = {variable["name"]: variable for variable in container["env"]}
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        (value,) = (word.partition("=")[2] for word in container["args"] if word.startswith(f"{flag}="))
        apis, _, restriction = value.partition(":")
        assert apis == triton_installation.RESTRICTED_APIS
        header, _, key = restriction.partition("=")
        assert header == CONTROL_HEADER
        assert "secretKeyRef" in variables[key.removeprefix("$(").removesuffix(")")]["valueFrom"]


def test_credentials_come_from_secrets_and_only_buckets_are_reached(objects: list[Object]) -> None:
    variables = {variable["name"]: variable for variable in the_server(objects)["env"]}
    secret = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY"}
    assert all("secretKeyRef" in variables[name]["valueFrom"] for name in secret & variables.keys())
    is_bucket = "://" in variables["MODEL_REPOSITORY"]["value"]
    assert is_bucket == bool(the(objects, "NetworkPolicy")["spec"]["egress"])


def test_shared_memory_is_memory_and_bounded() -> None:
    pod, container = next(containers_of(rendered(Placement())))
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert volume["emptyDir"]["medium"] == "Memory"
    assert volume["emptyDir"]["sizeLimit"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_the_number_of_pods_is_left_to_an_autoscaler() -> None:
    for autoscaler in AUTOSCALERS:
        deployment = the(rendered(Placement(autoscaler=autoscaler, replicas=3)), "Deployment")
        assert deployment["spec"].get("replicas") == (3 if autoscaler == "none" else None)


def test_what_the_custom_objects_say_is_what_their_operators_read() -> None:
    """No schema: so the fields that matter, by hand."""
    hpa = rendered(Placement(autoscaler="hpa", monitor=True))
    monitor, service = the(hpa, "ServiceMonitor"), the(hpa, "Service", "triton-resnet50-headless")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "triton", "the job of deploy/prometheus"

    keda = the(rendered(Placement(autoscaler="keda", replicas=3)), "ScaledObject")
    assert keda["apiVersion"] == "keda.sh/v1alpha1"
    assert keda["spec"]["scaleTargetRef"]["name"] == "triton-resnet50"
    assert 3 == keda["spec"]["minReplicaCount"] < keda["spec"]["maxReplicaCount"]
    (trigger,) = keda["spec"]["triggers"]
    assert trigger["metricType"] == "Value", "the default divides by the number of pods"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())


def kserve_objects(placement: Placement) -> list[Object]:
    return [one.fields for one in kserve_manifests(example(placement))]


def test_the_inference_service_runs_our_runtime_over_its_storage() -> None:
    for storage in STORAGES:
        objects = kserve_objects(Placement(storage=storage, gpu=True))
        runtime, service = the(objects, "ServingRuntime"), the(objects, "InferenceService")
        model = service["spec"]["predictor"]["model"]
        assert service["apiVersion"] == "serving.kserve.io/v1beta1"
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["modelFormat"] in runtime["spec"]["supportedModelFormats"]
        assert model["storageUri"] == storage_uri(storage, example().release.name)
        assert "--load-model=resnet50" in model["args"]
        assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
        (container,) = runtime["spec"]["containers"]
        assert container["name"] == "kserve-container"
        assert container["securityContext"]["runAsNonRoot"] is True
        assert not {word.partition("=")[0] for word in model["args"]} & {
            word.partition("=")[0] for word in container["args"]
        }, "KServe appends the one to the other"


def test_kserve_pods_fit_the_pod_schema() -> None:
    """What KServe makes of both objects is a pod: their parts that are Kubernetes' own, as one."""
    objects = kserve_objects(Placement())
    runtime, predictor = the(objects, "ServingRuntime")["spec"], the(objects, "InferenceService")["spec"]["predictor"]
    own = {"modelFormat", "runtime", "protocolVersion", "storageUri"}
    container = runtime["containers"][0] | {key: value for key, value in predictor["model"].items() if key not in own}
    shared = {key: value for key, value in predictor.items() if key not in {"minReplicas", "maxReplicas", "model"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [container], "volumes": runtime["volumes"], **shared},
    }
    for version in VERSIONS:
        validate(pod, version)


QUEUES = """
rule_files: [rules.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      # Two pods: 100 requests a second that wait 30 ms each, and one that nobody asks.
      - { series: 'nv_inference_queue_duration_us{job="triton",model="m",pod="busy"}', values: '0+45000000x20' }
      - { series: 'nv_inference_request_success{job="triton",model="m",pod="busy"}', values: '0+1500x20' }
      - { series: 'nv_inference_queue_duration_us{job="triton",model="m",pod="idle"}', values: '7x20' }
      - { series: 'nv_inference_request_success{job="triton",model="m",pod="idle"}', values: '7x20' }
    promql_expr_test:
      - expr: by_pod
        eval_time: 4m
        exp_samples: [{ labels: 'by_pod{pod="busy"}', value: 0.03 }, { labels: 'by_pod{pod="idle"}', value: 0 }]
      - expr: fleet
        eval_time: 4m
        exp_samples: [{ labels: 'fleet{}', value: 0.03 }]
"""


def test_the_scalers_formula_is_the_mean_queue_time_and_zero_where_nothing_is_asked(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == METRIC
    by_pod = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'model="m"').replace("<<.GroupBy>>", "pod")
    rules = [
        {"record": "by_pod", "expr": by_pod},
        {"record": "fleet", "expr": queue_seconds('job="triton", model="m"', "")},
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queue", "rules": rules}]}))
    (tmp_path / "test.yml").write_text(QUEUES)
    promtool = debian.program("prometheus", "usr/bin/promtool")
    command = [str(promtool), "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hpa_and_keda_aim_at_the_same_time_in_the_queue() -> None:
    (metric,) = the(rendered(Placement(autoscaler="hpa")), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == METRIC
    assert metric["pods"]["target"]["averageValue"] == f"{TARGET_S * 1000:g}m"
    keda = the(rendered(Placement(autoscaler="keda")), "ScaledObject")
    assert float(keda["spec"]["triggers"][0]["metadata"]["threshold"]) == TARGET_S


def test_an_s3_host_of_ones_own_is_let_through_and_kserve_takes_it_from_the_secret() -> None:
    storage = parse_storage("s3://http://minio.example:9000/models/a")
    policy = the(rendered(Placement(storage=storage)), "NetworkPolicy")
    assert [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]] == [53, 53, 9000]
    with pytest.raises(UsageError, match="s3-endpoint"):
        storage_uri(storage, "a-1-0")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[server_ports.Ports, subprocess.Popen[bytes]]]:
    """The embedded server's binary under the Deployment's command, with a model in its repository."""
    if reason := triton_installation.missing_for_install():
        pytest.skip(reason)
    repository, ports = Repository(tmp_path / "models"), server_ports.Ports(http=0, grpc=0, metrics=0).resolved()
    publish_tiny(repository, "tiny")
    publish_tiny(repository, "tiny", seed=1)
    workload, _ = workload_of(repository, "tiny", Placement(), version=1)
    container = the_server([one.fields for one in kubernetes_manifests(workload)])
    values = {"MODEL_REPOSITORY": str(write_release(workload.release, tmp_path)), "RESX_CONTROL_KEY": KEY}
    given = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in container["args"]]
    installation = triton_installation.install()
    own = [
        f"--backend-directory={installation.backends}",
        f"--backend-config=python,shm-region-prefix-name=resx-{os.getpid()}-kubernetes-",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        *(f"--{protocol}-address={LOOPBACK}" for protocol in ("http", "grpc", "metrics")),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        command = [str(installation.server), *given, *own]
        environment = triton_installation.process_environment(installation)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        for _ in range(20):  # a port that another test took meanwhile ends it; it is free again soon
            if probe(ports.http, "/v2/health/live") == 200:
                break
            time.sleep(1)
            if process.poll() is not None:
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield ports, process
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


def probe(port: int, path: str) -> int:
    """Return the status that a kubelet would see, or 0 while nobody listens."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0


@pytest.mark.triton
def test_the_deployments_command_serves_its_probes_and_wants_the_key(
    served: tuple[server_ports.Ports, subprocess.Popen[bytes]],
) -> None:
    ports, process = served
    ready, live = "/v2/models/tiny/versions/1/ready", "/v2/health/live"
    end = time.monotonic() + 120
    while probe(ports.http, ready) != 200:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    assert probe(ports.http, live) == 200
    assert probe(ports.http, "/v2/models/tiny/versions/2/ready") != 200, "published, and not of this release"

    without_key = parse_address(f"{LOOPBACK}:{ports.http}", "http", control_key="")
    with TritonClient(without_key) as stranger, pytest.raises(ResxError):
        stranger.unload("tiny")
    with TritonClient(parse_address(f"{LOOPBACK}:{ports.grpc}", "grpc", control_key=KEY)) as owner:
        owner.unload("tiny")
    while probe(ports.http, ready) == 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert probe(ports.http, live) == 200, "a model that is gone is no reason to kill the server"
