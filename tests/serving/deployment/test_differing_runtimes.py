"""Versions of one model that are computed by different runtimes, or in different precisions, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resx.errors import UsageError
from resx.repository.versions import Repository
from resx.runtimes.model_file import open_model
from resx.runtimes.openvino_package import computes_in_bf16
from resx.scoring.in_process import Sessions, find_model
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Manner, deploy
from resx.serving.deployment.dry_run import plan
from resx.serving.deployment.rollback import rollback
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, TritonClient]]:
    """A server over the same network for onnxruntime, for OpenVINO in f32 and, where it can be, in bf16, and back."""
    repository = Repository(tmp_path_factory.mktemp("differing") / "model_repository")
    publish_tiny(repository, "tiny")
    publish_tiny(repository, "tiny", runtime="openvino")
    publish_tiny(repository, "tiny", runtime="openvino", precision="bf16" if computes_in_bf16() else "fp32")
    publish_tiny(repository, "tiny")
    state = detaching.serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--load-none"])
    with TritonClient(state.address("grpc")) as client:
        yield repository, client
    if running_server(repository):
        detaching.stop(repository)


def in_process(repository: Repository, version: int) -> np.ndarray:
    card = repository.card("tiny", version)
    return open_model(repository.version_folder("tiny", version) / card.model_file, card)(IMAGES)


def test_each_version_answers_as_its_own_runtime_and_precision_do(served: tuple[Repository, TritonClient]) -> None:
    repository, client = served
    for version in (1, 2, 3, 4, 3, 1, 3, 2, 4):
        done = deploy(client, repository, "tiny", version)
        assert done.canary_difference < 1e-5
        answer = client.infer("tiny", client.interface("tiny"), IMAGES)
        assert answer.version == version
        expected = in_process(repository, version)
        assert np.abs(answer.logits - expected).max() <= 1e-5 * np.abs(expected).max()
        assert client.model_versions()["tiny"] == [version]
    back = rollback(client, repository, "tiny")
    assert (back.version, back.canary_difference < 1e-5) == (2, True)


def test_two_that_differ_cannot_be_kept_beside_each_other(served: tuple[Repository, TritonClient]) -> None:
    repository, client = served
    deploy(client, repository, "tiny", 1)
    with pytest.raises(UsageError, match=r"version 1 cannot be kept beside 2: .*remove --keep-previous"):
        deploy(client, repository, "tiny", 2, manner=Manner(keep_previous=True))
    assert client.model_versions()["tiny"] == [1]


def test_a_dry_run_lists_what_the_deployment_then_does(served: tuple[Repository, TritonClient]) -> None:
    repository, client = served
    for old, new in ((1, 2), (2, 1)):
        deploy(client, repository, "tiny", old)
        found = plan(client, repository, "tiny", new, Manner(trial_s=1.0)).checks
        tried = f"load version {new} as ~tiny, run its self-test, unload it"
        assert found[1:3] == (
            tried,
            f"load version {new} in place of version {old}, whose runtime or precision differs",
        )
        assert not [step for step in found if "standby" in step or step == f"unload version {old}"]
        steps: list[str] = []
        deploy(client, repository, "tiny", new, manner=Manner(trial_s=0.1), on_step=steps.append)
        assert f"test version {new} under another name" in steps
        assert not [step for step in steps if "standby" in step]
        with pytest.raises(UsageError, match="remove --keep-previous"):
            plan(client, repository, "tiny", old, Manner(keep_previous=True))
    deploy(client, repository, "tiny", 1)
    assert plan(client, repository, "tiny", 4, Manner(trial_s=1.0)).checks[-2:] == (
        "monitor it for 1 s, version 1 on standby",
        "unload version 1",
    )


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_version_is_scored_in_process_by_its_own_runtime(
    served: tuple[Repository, TritonClient], version: int, *, as_bytes: bool
) -> None:
    repository, _ = served
    file = find_model(repository, "tiny", version)
    content: Path | bytes = file.path.read_bytes() if as_bytes else file.path
    answer = Sessions(content, file.model, file.config, instances=2, device="cpu")(IMAGES)
    expected = in_process(repository, version)
    assert np.abs(answer - expected).max() <= 1e-5 * np.abs(expected).max()
    assert float("1e-310") / 4, "the caller's denormal numbers stay"
    backend = repository.card("tiny", version).runtime_name
    assert file.config["backend"] == backend
    if backend == "openvino":
        with pytest.raises(UsageError, match="--device cuda: OpenVINO runs this model on the CPU"):
            Sessions(content, file.model, file.config, instances=1, device="cuda")
