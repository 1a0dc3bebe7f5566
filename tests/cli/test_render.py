"""`resx deploy NAME --render`: manifests of a published version, from the command, with no server."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.serving.clusters.naming import dns_label
from tests.support.command import Finished, refused
from tests.support.kubectl import helm
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]
NAME = "tiny_one.v2"
CHART = Path(__file__).parents[2] / "deploy" / "helm"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("rendered") / "model_repository")
    publish_tiny(repository, NAME)
    publish_tiny(repository, NAME, seed=1)
    config = repository.root / NAME / CONFIG_FILE
    text = config.read_text().replace("count: 1", "count: 3")
    config.write_text(text + 'parameters { key: "intra_op_thread_count" value { string_value: "2" } }\n')
    publish_tiny(repository, "files", image_endpoint=True)
    return repository


@pytest.fixture
def deploy(resx: Resx, repository: Repository) -> Resx:
    def run(*arguments: str | Path, name: str = NAME) -> Finished:
        return resx("deploy", name, "--repository", repository.root, *arguments)

    return run


def objects(text: str) -> dict[str, Any]:
    """Return the objects of a text by kind, the headless service apart; Helm leaves documents of comments alone."""
    found = [one for one in yaml.safe_load_all(text) if one]
    return {one["kind"] + one.get("spec", {}).get("clusterIP", ""): one for one in found}


def pod_of(done: Finished) -> dict[str, Any]:
    assert done.code == 0, done.err
    pod: dict[str, Any] = objects(done.out)["Deployment"]["spec"]["template"]["spec"]
    return pod


def test_the_manifests_say_what_the_configuration_says(deploy: Resx) -> None:
    done = deploy("--render", "kubernetes", "--replicas", "3", "--storage", "pvc:models")
    assert done.code == 0, done.err
    deployment = objects(done.out)["Deployment"]
    assert deployment["metadata"]["name"] == dns_label(NAME)
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["minReadySeconds"] > 0
    pod = deployment["spec"]["template"]
    release = pod["metadata"]["annotations"].pop("resx/release")
    assert pod["metadata"]["annotations"] == {"resx/model": NAME, "resx/version": "2", "resx/max-queue": "32"}
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "6"
    assert f"--load-model={NAME}" in container["args"]
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{NAME}/versions/2/ready"
    claims = [volume.get("persistentVolumeClaim") for volume in pod["spec"]["volumes"]]
    assert {"claimName": "models", "readOnly": True} in claims
    assert release in done.err


@pytest.mark.parametrize(
    ("version", "storage"), [("1", "pvc:models"), ("1", "s3://bucket/prefix"), ("2", "gs://buc/x")]
)
def test_a_version_is_pinned_in_what_the_pods_load(deploy: Resx, version: str, storage: str) -> None:
    done = deploy("--render", "kubernetes", "--version", version, "--storage", storage)
    (container,) = pod_of(done)["containers"]
    paths = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness")}
    assert paths == {f"/v2/models/{NAME}/versions/{version}/ready"}
    (place,) = (one["value"] for one in container["env"] if one["name"] == "MODEL_REPOSITORY")
    mounted = [mount.get("subPath", "") for mount in container["volumeMounts"]]
    assert any(f"{NAME}-{version}-" in path for path in (place, *mounted))


def test_a_gpu_brings_its_toleration_and_takes_selector_class_and_account(deploy: Resx) -> None:
    pod = pod_of(
        deploy(
            "--render",
            "kubernetes",
            "--gpu",
            "--node-selector",
            "nvidia.com/gpu.product=H100",
            "--node-selector",
            "zone=",
            "--runtime-class",
            "nvidia",
            "--service-account",
            "reader",
            "--priority-class",
            "high",
            "--pull-secret",
            "one",
            "--pull-secret",
            "two",
            "--nodes",
            "2",
        )
    )
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "H100", "zone": ""}
    assert (pod["runtimeClassName"], pod["priorityClassName"]) == ("nvidia", "high")
    assert pod["serviceAccountName"] == "reader"
    assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    by_node = next(one for one in pod["topologySpreadConstraints"] if one["topologyKey"] == "kubernetes.io/hostname")
    assert (by_node["whenUnsatisfiable"], by_node["minDomains"], by_node["maxSkew"]) == ("DoNotSchedule", 2, 1)
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_nothing_that_a_bare_cluster_lacks_is_rendered_unasked(deploy: Resx) -> None:
    own = {"apps/v1", "v1", "policy/v1", "networking.k8s.io/v1"}
    bare = objects(deploy("--render", "kubernetes").out)
    assert {one["apiVersion"] for one in bare.values()} == own
    asked = objects(deploy("--render", "kubernetes", "--autoscaler", "keda", "--monitor").out)
    assert asked.keys() - bare.keys() == {"ScaledObject", "ServiceMonitor"}
    assert "replicas" not in asked["Deployment"]["spec"]


def test_an_image_endpoint_is_refused_in_an_image_without_its_packages(deploy: Resx) -> None:
    refused(deploy("--render", "kserve", name="files"), 2, "files_image", "Pillow", "--no-image-endpoint")
    with_digest = f"nvcr.io/nvidia/tritonserver@sha256:{'0' * 64}"
    refused(deploy("--render", "kubernetes", "--image", with_digest, name="files"), 2, "Pillow")
    alone = pod_of(deploy("--render", "kubernetes", "--no-image-endpoint", name="files"))
    assert [word for word in alone["containers"][0]["args"] if "load-model" in word] == ["--load-model=files"]
    both = pod_of(deploy("--render", "kubernetes", "--image", "r.io/own/triton:1", name="files"))
    assert "--load-model=files_image" in both["containers"][0]["args"]


def test_json_folder_and_text_hold_the_same_objects(deploy: Resx, tmp_path: Path) -> None:
    text = deploy("--render", "kserve", "--storage", "s3://bucket/prefix")
    as_json = deploy("--render", "kserve", "--storage", "s3://bucket/prefix", "--json")
    folder = deploy("--render", "kserve", "--storage", "s3://bucket/prefix", "-o", tmp_path / "out")
    assert text.code == as_json.code == folder.code == 0
    wanted = objects(text.out)
    assert set(wanted) == {"ServingRuntime", "ServiceAccount", "InferenceService"}
    assert {one["kind"]: one for one in as_json.json["objects"]} == wanted
    listed = yaml.safe_load((tmp_path / "out/kustomization.yaml").read_text())["resources"]
    assert objects("---\n".join((tmp_path / "out" / name).read_text() for name in listed)) == wanted
    refused(deploy("--render", "kserve", "-o", tmp_path / "out"), 2, "not empty")


def test_a_folder_holds_the_release_that_its_pods_check(deploy: Resx, tmp_path: Path) -> None:
    """The check runs here as in the pod, over the files as they are and after one of each kind changed."""
    done = deploy("--render", "kubernetes", "--version", "1", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    (release,) = (tmp_path / "out/releases").iterdir()
    assert not (release / NAME / "2").exists()
    assert "specific { versions: [1] }" in (release / NAME / CONFIG_FILE).read_text()
    deployment = yaml.safe_load((tmp_path / "out/deployment.yaml").read_text())
    (check,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert check["volumeMounts"][0]["subPath"] == release.name
    command = [word.replace("/models", str(release)) for word in check["command"]]
    assert subprocess.run(command, check=False).returncode == 0
    for file in ("SHA256SUMS", f"{NAME}/{CONFIG_FILE}", f"{NAME}/1/model.onnx"):
        before = (release / file).read_bytes()
        (release / file).write_bytes(before + b"\n")
        assert subprocess.run(command, check=False, capture_output=True).returncode != 0, file
        (release / file).write_bytes(before)
    (release / NAME / "1/model.onnx").unlink()
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_a_chart_is_linted_and_gives_the_manifests_of_the_renderer(deploy: Resx, tmp_path: Path) -> None:
    options = ["--storage", "gs://bucket/models", "--gpu", "--node-selector", "gpu=h100", "--priority-class", "high"]
    chart = tmp_path / "chart"
    done = deploy("--render", "helm", *options, "-o", chart)
    assert done.code == 0, done.err
    assert run_helm("lint", "--strict", chart).returncode == 0
    plain = objects(deploy("--render", "kubernetes", *options).out)
    assert objects(run_helm("template", "x", chart).stdout) == plain
    scaled = objects(run_helm("template", "x", chart, "--set", "autoscaler=keda,monitor=true,replicas=3").stdout)
    assert scaled.keys() - plain.keys() == {"ScaledObject", "ServiceMonitor"}
    assert scaled["ScaledObject"]["spec"]["minReplicaCount"] == 3
    assert "replicas" not in scaled["Deployment"]["spec"]
    package = run_helm("package", chart, "-d", tmp_path)
    assert package.returncode == 0
    assert sum(path.stat().st_size for path in tmp_path.glob("*.tgz")) < 100_000, "the release is not in the chart"


@pytest.mark.parametrize(
    "value", ["image=a:latest", "imag=a:1", "autoscaler=vpa", "replicas=0", "resources.limits.cpu=many", "monitor=yes"]
)
def test_a_chart_refuses_values_that_cannot_be(value: str) -> None:
    done = run_helm("template", "x", CHART, "--set", value)
    assert done.returncode != 0
    assert value.partition("=")[0].partition(".")[0] in done.stderr


def test_what_values_hold_stays_one_value_in_a_chart(tmp_path: Path) -> None:
    hostile = "x\n  hostNetwork: true # {{ .Release.Name }}\": '"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"priorityClassName": hostile, "nodeSelector": {"a": hostile}}))
    done = run_helm("template", "x", CHART, "--values", tmp_path / "own.yaml")
    pod = objects(done.stdout)["Deployment"]["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == pod["nodeSelector"]["a"] == hostile
    assert "hostNetwork" not in pod


def run_helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (helm(), *arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--render", "docker"], ["--render docker", "kubernetes, kserve, helm"]),
        (["--render", "helm"], ["--render helm", "-o DIR"]),
        (["--render", "kubernetes", "--version", "7"], ["no version 7"]),
        (["--render", "kubernetes", "--url", "127.0.0.1:1"], ["--url", "running server"]),
        (["--render", "kubernetes", "--dry-run"], ["--dry-run"]),
        (["--render", "kubernetes", "--best-under", "5ms"], ["--best-under"]),
        (["--render", "kserve", "--autoscaler", "hpa"], ["--autoscaler hpa", "keda"]),
        (["--render", "kserve", "--monitor"], ["--monitor"]),
        (["--render", "kubernetes", "--autoscaler", "vpa"], ["--autoscaler vpa"]),
        (["--render", "kubernetes", "--replicas", "3", "--nodes", "2"], ["--nodes 2", "--replicas 3"]),
        (["--render", "kubernetes", "--image", "tritonserver:latest"], ["latest"]),
        (["--render", "kubernetes", "--storage", "nfs:/models"], ["--storage nfs:/models", "pvc:"]),
        (["--render", "kubernetes", "--node-selector", "a=b: c"], ["--node-selector a=b: c"]),
        (["--render", "kubernetes", "--priority-class", "x: y"], ["--priority-class x: y"]),
        (["--replicas", "3"], ["--replicas", "--render kubernetes"]),
        (["--node-selector", "a=b"], ["--node-selector", "--render"]),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(deploy: Resx, arguments: list[str], words: list[str]) -> None:
    refused(deploy(*arguments), 2, *words)


def test_a_model_that_is_not_published_is_refused(resx: Resx, tmp_path: Path) -> None:
    refused(resx("deploy", "nosuch", "--render", "kubernetes"), 2, "nosuch", "resx export")
