"""`resx deploy NAME --render`: manifests of a published model, from the command, with no server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from resx.errors import UsageError
from resx.export.card import FILE_NAME, Card
from resx.serving.repository import Repository
from resx.serving.triton_config import CONFIG_FILE
from resx.serving.workload import Placement, dns_label, workload_of
from tests.cli.test_bad_input import refused
from tests.conftest import Finished, publish_tiny

Resx = Callable[..., Finished]
NAME = "tiny_one.v2"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("rendered") / "model_repository")
    publish_tiny(repository, NAME)
    config = repository.root / NAME / CONFIG_FILE
    text = config.read_text().replace("count: 1", "count: 3")
    config.write_text(text + 'parameters { key: "intra_op_thread_count" value { string_value: "2" } }\n')
    return repository


@pytest.fixture
def deploy(resx: Resx, repository: Repository) -> Resx:
    def run(*arguments: str | Path) -> Finished:
        return resx("deploy", NAME, "--repository", repository.root, *arguments)

    return run


def objects(text: str) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_the_manifests_say_what_the_configuration_says(deploy: Resx) -> None:
    done = deploy("--render", "kubernetes", "--replicas", "3", "--autoscaler", "none", "--storage", "pvc:models")
    assert done.code == 0, done.err
    assert done.err == ""
    deployment = objects(done.out)["Deployment"]
    assert deployment["metadata"]["name"] == dns_label(NAME)
    assert deployment["spec"]["replicas"] == 3
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["annotations"] == {
        "resx/model": NAME, "resx/version": "1", "resx/version-policy": "latest 1", "resx/max-queue": "32",
    }  # fmt: skip
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "6"
    assert f"--load-model={NAME}" in container["args"]
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{NAME}/ready"
    claims = [volume.get("persistentVolumeClaim") for volume in pod["spec"]["volumes"]]
    assert {"claimName": "models", "readOnly": True} in claims


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--render", "docker"], ["--render docker", "kubernetes, kserve"]),
        (["--render", "kubernetes", "--url", "127.0.0.1:1"], ["--url", "running server"]),
        (["--render", "kubernetes", "--dry-run"], ["--dry-run"]),
        (["--render", "kubernetes", "--best-under", "5ms"], ["--best-under"]),
        (["--render", "kserve", "--trial", "2"], ["--trial"]),
        (["--render", "kserve", "--autoscaler", "hpa"], ["--autoscaler hpa", "keda"]),
        (["--render", "kubernetes", "--autoscaler", "vpa"], ["--autoscaler vpa"]),
        (["--render", "kubernetes", "--replicas", "0"], ["--replicas 0"]),
        (["--render", "kubernetes", "--replicas", "-1"], ["--replicas -1"]),
        (["--render", "kubernetes", "--image", "tritonserver"], ["--image tritonserver", "TAG"]),
        (["--render", "kubernetes", "--image", "tritonserver:latest"], ["latest"]),
        (["--render", "kubernetes", "--storage", "nfs:/models"], ["--storage nfs:/models", "pvc:"]),
        (["--render", "kubernetes", "--storage", "oci:models"], ["oci:"]),
        (["--replicas", "3"], ["--replicas", "--render kubernetes"]),
        (["--gpu"], ["--gpu", "--render"]),
    ],
)
def test_options_that_cannot_be_are_refused(deploy: Resx, arguments: list[str], words: list[str]) -> None:
    refused(deploy(*arguments), 2, *words)


def test_a_model_that_is_not_published_is_refused(resx: Resx, tmp_path: Path) -> None:
    refused(resx("deploy", "nosuch", "--render", "kubernetes"), 2, "nosuch", "resx export")


def test_the_cpus_form_of_int8_is_not_put_on_a_gpu(repository: Repository, tmp_path: Path) -> None:
    card: Card = repository.card(NAME).model_copy(update={"precision": "int8", "target": "cpu"})
    other = Repository(tmp_path / "model_repository")
    publish_tiny(other, "small")
    (other.root / "small/1" / FILE_NAME).write_text(card.model_dump_json())
    workload_of(other, "small", Placement())
    with pytest.raises(UsageError, match="--gpu: .* int8 in the CPU's form"):
        workload_of(other, "small", Placement(gpu=True))


def test_threads_that_are_left_to_the_server_are_remarked_on(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "small", image_endpoint=True)
    workload, remarks = workload_of(repository, "small", Placement())
    assert [remark.partition(":")[0] for remark in remarks] == ["small", "small_image"]
    assert workload.endpoints == ("small_preprocess", "small_image")
    assert workload_of(repository, "small", Placement(gpu=True))[1] == remarks[1:]
